"""`field_docs` reads the section `Attributes:` of a dataclass and of its bases."""

from dataclasses import dataclass

from defenses.registry import field_docs


@dataclass
class Base:
    """A base.

    Attributes:
        t: diffusion time, in (0, 1].
        steps: reverse steps,
            at least 1.
    """

    t: float = 0.1
    steps: int = 1


@dataclass
class Narrow(Base):
    """A narrower one.

    Attributes:
        t: diffusion time, in (0, 0.5].

    Not part of the section: other: nothing.
    """

    silent: int = 0


def test_own_lines_come_before_those_of_the_base() -> None:
    assert field_docs(Base) == {"t": "diffusion time, in (0, 1].", "steps": "reverse steps, at least 1."}
    assert field_docs(Narrow) == {"t": "diffusion time, in (0, 0.5].", "steps": "reverse steps, at least 1."}
