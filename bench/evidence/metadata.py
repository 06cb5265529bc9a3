"""What other catalogues read of a result: the Hugging Face hub's `model-index`, and Croissant, for data set search."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.epsilon import epsilon_text

Row = Mapping[str, Any]
CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
    "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/", "dct": "http://purl.org/dc/terms/",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "equivalentProperty": "cr:equivalentProperty", "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract", "field": "cr:field", "fileProperty": "cr:fileProperty", "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet", "format": "cr:format", "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath", "key": "cr:key", "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated",
    "replace": "cr:replace", "samplingRate": "cr:samplingRate", "sc": "https://schema.org/",
    "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField", "transform": "cr:transform",
}  # fmt: skip
TYPES = {"x_adv": "sc:Text", "distance": "sc:Float", "first_success": "sc:Boolean", "null_first_success": "sc:Boolean"}
TEXTS = ("broken_by", "clean_votes", "robust_votes", "null_votes", "rounded_votes")


def describe(cell: Row) -> str:
    """A cell in one line."""
    threat = f"{cell['norm']} {epsilon_text(cell['epsilon'])}, {cell['gradient']} gradient"
    return (
        f"{cell['dataset']}, {cell['classifier']}, {cell['defense']}, {cell['attack']} ({threat}, {cell['tier']} tier)"
    )


def write_hf(cell: Row, run: Row, path: Path, doubts: Sequence[str]) -> None:
    """A card whose head the Hugging Face hub reads as results (`model-index`), each accuracy with what it means.

    Args:
        cell: the row of `cells`.
        run: the row of `runs`.
        path: the file, README.md of a model's repository.
        doubts: why tables mark the robust accuracy, a sentence each; empty where they do not.
    """
    from huggingface_hub import EvalResult, ModelCardData

    setting = {"norm": cell["norm"], "epsilon": epsilon_text(cell["epsilon"]), "gradient": cell["gradient"],
               "attack": cell["attack"], "attack_params": cell["attack_params"], "tier": cell["tier"],
               "images": cell["num_images"], "draws": cell["draws"], "cell": cell["key"]}  # fmt: skip
    means = {
        "clean": "clean accuracy",
        "robust": f"robust accuracy under {cell['attack']}, an upper bound",
        "rounded": "robust accuracy of the images as 8-bit pictures",
        "null": "accuracy under the same protocol with epsilon 0",
    }
    results = [
        EvalResult(
            task_type="image-classification", task_name="Image classification", dataset_type=cell["dataset"],
            dataset_name=cell["dataset"], dataset_split="test", dataset_args=setting, metric_type="accuracy",
            metric_name=name, metric_value=round(run[f"{kind}_accuracy"], 2),
        )
        for kind, name in means.items()
        if run[f"{kind}_accuracy"] is not None
    ]  # fmt: skip
    name = f"{cell['classifier']} behind {cell['defense']}"
    data = ModelCardData(model_name=name, eval_results=results, tags=["adversarial-robustness", "purification"],
                         datasets=[cell["dataset"]], library_name="purification-bench")  # fmt: skip
    low, high = run["robust_low"], run["robust_high"]
    claim = " This is the quick tier: no robustness claim." if cell["tier"] == "quick" else ""
    body = (
        f"{describe(cell)}: robust {run['robust_accuracy']:.1f} % [{low:.1f}, {high:.1f}], clean "
        f"{run['clean_accuracy']:.1f} %, on {cell['num_images']} images, {cell['draws']} draws each.{claim}"
    )
    body += "".join(f" In doubt: {reason}" for reason in doubts)
    plain = body.replace("<", "&lt;").replace("[", "\\[")
    path.write_text(f"---\n{data.to_yaml()}\n---\n\n{plain}\n", encoding="utf-8")


def write_croissant(cell: Row, run: Row, table: Path, path: Path, doubts: Sequence[str]) -> None:
    """Croissant 1.0 (MLCommons, 2024), JSON-LD about a parquet file of outcomes.

    Args:
        cell: the row of `cells`.
        run: the row of `runs`.
        table: the parquet file, in the folder of `path`.
        path: the file to write.
        doubts: why tables mark the robust accuracy, a sentence each; empty where they do not.
    """
    from pyarrow import parquet

    columns = parquet.read_schema(table).names
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    licences = run["licences"] or {}
    told = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": f"adversarial-images-{cell['key']}",
        "description": f"Adversarial images with the votes of the judge: {describe(cell)}. Robust accuracy "
        f"{run['robust_accuracy']:.1f} % of {cell['num_images']} images. x_adv holds float32 numbers of shape `shape`."
        + "".join(f" In doubt: {reason}" for reason in doubts),
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "license": licences.get(cell["dataset"]) or "not stated",
        "version": "1.0.0",
        "datePublished": f"{run['finished_at']:%Y-%m-%d}",
        "distribution": [
            {"@type": "cr:FileObject", "@id": "table", "name": "table", "contentUrl": table.name, "sha256": digest,
             "encodingFormat": "application/x-parquet"},
        ],
        "recordSet": [
            {"@type": "cr:RecordSet", "@id": "images", "name": "images", "field": [_field(name) for name in columns]},
        ],
    }  # fmt: skip
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _field(name: str) -> dict[str, Any]:
    kind = "sc:Text" if name in TEXTS else TYPES.get(name, "sc:Integer")
    many = {"repeated": True} if name == "shape" else {}
    source = {"fileObject": {"@id": "table"}, "extract": {"column": name}}
    return {"@type": "cr:Field", "@id": f"images/{name}", "name": name, "dataType": kind, "source": source, **many}
