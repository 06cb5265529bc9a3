"""The tables of the result database, and the view `results`; docs/schema.md says what each column means."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Select,
    String,
    Text,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Key = String(16)


class Base(DeclarativeBase):
    """Python types to SQL types, the same in every table. Times are UTC."""

    type_annotation_map = {
        str: Text(),
        float: Double(),
        datetime: DateTime(),
        dict[str, Any]: Json,
        list[Any]: Json,
    }


class PublishedRow(Base):
    """A number from the literature (bench/published.csv)."""

    __tablename__ = "published"
    key: Mapped[str] = mapped_column(String(80), primary_key=True)
    source_key: Mapped[str]
    source_title: Mapped[str]
    year: Mapped[int | None]
    source_table: Mapped[str]
    dataset: Mapped[str]
    classifier: Mapped[str]
    defense: Mapped[str]
    defense_family: Mapped[str]
    norm: Mapped[str]
    eps: Mapped[str]
    epsilon: Mapped[float | None]
    attack: Mapped[str]
    gradient_access: Mapped[str]
    standard_acc: Mapped[float | None]
    standard_std: Mapped[float | None]
    robust_acc: Mapped[float | None]
    robust_std: Mapped[float | None]
    n_images: Mapped[int | None]
    found_in: Mapped[str]
    confidence: Mapped[str]
    notes: Mapped[str | None]
    attack_name: Mapped[str | None]
    attack_variant: Mapped[str | None]
    attack_steps: Mapped[int | None]
    attack_eot: Mapped[int | None]
    attack_target: Mapped[str | None]
    attack_several: Mapped[str | None]
    metric: Mapped[str | None]
    metric_stated: Mapped[str | None]
    attacker_gradient: Mapped[str | None]


class CellRow(Base):
    """What is to be measured, under its content-addressed key."""

    __tablename__ = "cells"
    key: Mapped[str] = mapped_column(Key, primary_key=True)
    dataset: Mapped[str]
    classifier: Mapped[str]
    score: Mapped[str | None]
    defense: Mapped[str]
    defense_version: Mapped[int]
    defense_params: Mapped[dict[str, Any]]
    attack: Mapped[str]
    attack_version: Mapped[int]
    attack_params: Mapped[dict[str, Any]]
    norm: Mapped[str]
    epsilon: Mapped[float]
    gradient: Mapped[str]
    tier: Mapped[str]
    num_images: Mapped[int]
    data_seed: Mapped[int]
    balanced: Mapped[bool]
    batch_size: Mapped[int]
    draws: Mapped[int]
    seed: Mapped[int]
    grid: Mapped[str | None]
    published_key: Mapped[str | None] = mapped_column(String(80), ForeignKey("published.key"))
    created_at: Mapped[datetime]
    attack_precision: Mapped[str]
    noise: Mapped[str]


class RunRow(Base):
    """One execution of a cell."""

    __tablename__ = "runs"
    id: Mapped[int] = mapped_column(primary_key=True)
    cell_key: Mapped[str] = mapped_column(Key, ForeignKey("cells.key"), index=True)
    status: Mapped[str] = mapped_column(String(8))
    host: Mapped[str | None]
    pid: Mapped[int | None]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    seconds: Mapped[float | None]
    batch_size: Mapped[int | None]
    clean_accuracy: Mapped[float | None]
    clean_low: Mapped[float | None]
    clean_high: Mapped[float | None]
    robust_accuracy: Mapped[float | None]
    robust_low: Mapped[float | None]
    robust_high: Mapped[float | None]
    null_accuracy: Mapped[float | None]
    null_low: Mapped[float | None]
    null_high: Mapped[float | None]
    vote_accuracy: Mapped[float | None]
    worst_accuracy: Mapped[float | None]
    first_success_accuracy: Mapped[float | None]
    null_first_success_accuracy: Mapped[float | None]
    commit_hash: Mapped[str | None]
    dirty: Mapped[bool | None]
    packages: Mapped[dict[str, Any] | None] = mapped_column(Json)
    device: Mapped[str | None]
    precision: Mapped[str | None]
    weights: Mapped[dict[str, Any] | None] = mapped_column(Json)
    licences: Mapped[dict[str, Any] | None] = mapped_column(Json)
    gates: Mapped[list[Any] | None] = mapped_column(Json)
    network_evaluations: Mapped[int | None] = mapped_column(BigInteger)
    verdict: Mapped[str | None]
    verdict_reason: Mapped[str | None]
    notes: Mapped[list[Any] | None] = mapped_column(Json)
    error_class: Mapped[str | None]
    error_message: Mapped[str | None]
    remedy: Mapped[str | None]
    error_traceback: Mapped[str | None]
    failures: Mapped[int | None]
    rounded_accuracy: Mapped[float | None]
    rounded_low: Mapped[float | None]
    rounded_high: Mapped[float | None]


class BatchRow(Base):
    """A finished batch of images of a run."""

    __tablename__ = "batches"
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seconds: Mapped[float]
    network_evaluations: Mapped[int] = mapped_column(BigInteger)
    curve: Mapped[list[Any]]
    device: Mapped[str | None]
    stored_at: Mapped[datetime | None]
    evidence: Mapped[str | None]
    evidence_sha256: Mapped[str | None]
    peak_bytes: Mapped[int | None] = mapped_column(BigInteger)
    device_bytes: Mapped[int | None] = mapped_column(BigInteger)
    operations: Mapped[float | None]


class ClaimRow(Base):
    """A unit of a run that a process works on now: a lease, gone when the unit is stored."""

    __tablename__ = "claims"
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    unit: Mapped[str] = mapped_column(Key, primary_key=True)
    token: Mapped[str]
    holder: Mapped[str]
    process: Mapped[str | None]
    claimed_at: Mapped[datetime]
    beat_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class ImageRow(Base):
    """One image of a run: votes of the judging draws."""

    __tablename__ = "images"
    __table_args__ = (ForeignKeyConstraint(["run_id", "batch"], ["batches.run_id", "batches.number"]),)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    image_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # `index` is a word of SQL
    position: Mapped[int]
    batch: Mapped[int]
    label: Mapped[int]
    draws: Mapped[int]
    clean_correct: Mapped[int]
    robust_correct: Mapped[int]
    null_correct: Mapped[int]
    clean_votes: Mapped[Any] = mapped_column(Json, nullable=False)
    robust_votes: Mapped[Any] = mapped_column(Json, nullable=False)
    null_votes: Mapped[Any] = mapped_column(Json, nullable=False)
    distance: Mapped[float]
    broken_by: Mapped[str | None]
    first_success: Mapped[bool | None]
    null_first_success: Mapped[bool | None]
    rounded_votes: Mapped[Any | None] = mapped_column(Json)
    rounded_correct: Mapped[int | None]


class GridRow(Base):
    """A grid that has run here: what its tables look like, as plain data."""

    __tablename__ = "grids"
    name: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str]
    digest: Mapped[str]
    described: Mapped[dict[str, Any] | None] = mapped_column(Json)
    ran_at: Mapped[datetime]


def results_select() -> Select[Any]:
    """The query behind the view `results`: one row a cell, newest successful run, published number beside it."""
    cell, run, later, known = CellRow, RunRow, aliased(RunRow), PublishedRow
    newest = select(func.max(later.id)).where(later.cell_key == cell.key, later.status == "done").scalar_subquery()
    columns = [
        *(cell.dataset, cell.classifier, cell.score, cell.defense, cell.defense_params),
        *(cell.attack, cell.attack_params, cell.norm, cell.epsilon, cell.gradient, cell.tier),
        *(cell.attack_precision, cell.noise),
        *(cell.num_images, cell.draws),
        *(run.clean_accuracy, run.clean_low, run.clean_high, run.robust_accuracy, run.robust_low, run.robust_high),
        *(run.vote_accuracy, run.worst_accuracy, run.first_success_accuracy, run.null_first_success_accuracy),
        *(run.null_accuracy, run.null_low, run.null_high),
        *(run.rounded_accuracy, run.rounded_low, run.rounded_high),
        known.standard_acc.label("published_clean"),
        known.robust_acc.label("published_robust"),
        known.source_key.label("published_source"),
        known.n_images.label("published_images"),
        known.gradient_access.label("published_gradient"),
        known.attacker_gradient.label("published_attacker"),
        known.confidence.label("published_confidence"),
        cell.published_key,
        *(
            run.verdict,
            run.verdict_reason,
            run.gates,
            run.notes,
            run.device,
            run.precision,
            run.network_evaluations,
            run.seconds,
        ),
        *(run.commit_hash, run.dirty, run.finished_at.label("measured_at")),
        *(cell.key.label("cell_key"), run.id.label("run_id"), cell.grid, cell.data_seed, cell.balanced, cell.seed),
        *(cell.defense_version, cell.attack_version),
        run.batch_size,
    ]
    joined = select(*columns).select_from(cell).join(run, run.id == newest)
    return joined.outerjoin(known, known.key == cell.published_key)
