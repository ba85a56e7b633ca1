"""From what an evaluation found to the report's page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from beam_vision.evaluation.marking import MATCH_IOU
from beam_vision.evaluation.result import Result
from beam_vision.evaluation.summary import HEADLINES
from beam_vision.reports.detection import (
    Accounts,
    ClassRow,
    Curve,
    DetectionReport,
    DrawnBox,
    Headline,
    Scene,
    Sheet,
)

_IOU_CURVES = {"curve50": 0.5, "curve75": 0.75}


def report_of(found: Result, metrics: Mapping[str, Any]) -> DetectionReport:
    """The page's content.

    Args:
      found: by the pipeline.
      metrics: the content of ``metrics.json``.
    """
    numbers, best = metrics["metrics"], metrics["best_f1"]
    return DetectionReport(
        title="Detection against truth",
        subtitle=_subtitle(metrics),
        headlines=[Headline(name, numbers[name], text) for name, text in HEADLINES.items()],
        classes=[_class(row) for row in metrics["classes"]],
        curves=_curves(metrics["curves"]),
        sheets=[_sheet(sheet) for sheet in found.sheets],
        accounts=_accounts(metrics["accounts"]),
        score_threshold=best["score_threshold"] if best else None,
        match_iou=MATCH_IOU,
        notes=[*([_best(best)] if best else []), *metrics["notes"]],
    )


def _subtitle(metrics: Mapping[str, Any]) -> str:
    table = os.path.basename(metrics["predictions"].rstrip("/"))
    truth = os.path.basename(metrics["truth"]["paths"][0].rstrip("/"))
    model = metrics["digests"].get("model")
    return f"{table} against {truth}" + (f", model {model}" if model else "")


def _best(best: Mapping[str, float]) -> str:
    return (
        f"Pictures show detections from a score of {best['score_threshold']:g}, where F1 over all objects is "
        f"highest ({best['f1']:.3f}, at IoU {best['iou']:g}); metrics take all detections."
    )


def _class(row: Mapping[str, Any]) -> ClassRow:
    return ClassRow(
        label=row["label"],
        truth=row["truths"],
        detections=row["detections"],
        ap=row["mAP"],
        ap50=row["AP50"],
        ap75=row["AP75"],
        ar=row["AR@100"],
    )


def _curves(curves: Mapping[str, Any]) -> list[Curve]:
    sets = [(None, curves["mean"]), *curves["classes"].items()]
    return [
        Curve(label, iou, drawn[name]) for label, drawn in sets for name, iou in _IOU_CURVES.items() if drawn
    ]


def _accounts(accounts: Mapping[str, Any]) -> Accounts:
    return Accounts(
        evaluated=accounts["images_with_a_row"],
        missing=accounts["images_missing"],
        without_truth=accounts["rows_without_truth"],
        faults=sum(accounts["faults"].values()),
        faults_by_reason=accounts["faults"],
    )


def _sheet(sheet: Mapping[str, Any]) -> Sheet:
    return Sheet(
        name=sheet["label"],
        explanation=f"{sheet['errors']:,} misses and false alarms of {sheet['label']} in {sheet['images']:,} "
        "images; those with most of them. Boxes of other classes are drawn where one of these is.",
        scenes=[_scene(picture) for picture in sheet["pictures"]],
        total=sheet["images"],
    )


def _scene(picture: Mapping[str, Any]) -> Scene:
    boxes = [
        DrawnBox(tuple(box["xyxy"]), box["label"], box["score"], box["kind"]) for box in picture["boxes"]
    ]
    return Scene(picture["key"], picture["uri"], picture["width_px"], picture["height_px"], boxes)
