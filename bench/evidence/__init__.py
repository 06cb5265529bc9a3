"""The adversarial images behind a number: how a batch of them is written, where it lies, and whether it is intact.

See docs/evidence.md.
"""

from bench.evidence.batch_file import EvidenceBatch, pack_batch, unpack_batch
from bench.evidence.vault import EvidenceError, Vault, vault_beside

__all__ = ["EvidenceBatch", "EvidenceError", "Vault", "pack_batch", "unpack_batch", "vault_beside"]
