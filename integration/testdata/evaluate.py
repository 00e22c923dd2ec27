"""Prints what scikit-learn makes of labelled scores: for each line of the file named,
an object with the lists probability and churned, one line with the figures and curves.

What scikit-learn does not define, or has no function for, is computed from the
definition with numpy, or null.
"""

import json
import math
import sys
import warnings

import numpy
import sklearn
from sklearn import calibration, metrics

print(f"scikit-learn {sklearn.__version__}", file=sys.stderr)
warnings.simplefilter("ignore")  # about figures that are not defined


def figures(p, y):
    predicted = p >= 0.5
    both = 0 < y.sum() < len(y)
    rate = y.mean()
    loss = metrics.log_loss(y, p, labels=[0, 1])
    f = {
        "accuracy": metrics.accuracy_score(y, predicted),
        "precision": metrics.precision_score(y, predicted, zero_division=numpy.nan),
        "recall": metrics.recall_score(y, predicted, zero_division=numpy.nan),
        "f1": metrics.f1_score(y, predicted, zero_division=numpy.nan),
        "roc_auc": metrics.roc_auc_score(y, p) if both else None,
        "pr_auc": metrics.average_precision_score(y, p) if y.any() else None,
        "log_loss": loss,
        "log_loss_skill": metrics.d2_log_loss_score(y, numpy.column_stack([1 - p, p]), labels=[0, 1]) if both else None,
        "brier": metrics.brier_score_loss(y, p, pos_label=1),
        "calibration_error": numpy.nan,
        "top_decile_lift": None,
    }
    # The calibration curve has no counts; they are those of its own bins.
    observed, mean = calibration.calibration_curve(y, p, n_bins=10)
    counts = numpy.bincount(numpy.searchsorted(numpy.linspace(0, 1, 11)[1:-1], p), minlength=10)
    counts = counts[counts > 0]
    f["calibration_error"] = float((numpy.abs(observed - mean) * counts).sum() / len(y))
    if y.any():
        # The mean over all orders of those that tie.
        left, caught = math.ceil(len(y) / 10), 0.0
        decile = left
        for threshold in sorted(set(p), reverse=True):
            tied = p == threshold
            taken = min(tied.sum(), left)
            caught += y[tied].mean() * taken
            left -= taken
        f["top_decile_lift"] = caught / decile / rate
    f = {k: None if v is None or math.isnan(v) else float(v) for k, v in f.items()}
    out = {"figures": f, "confusion": metrics.confusion_matrix(y, predicted, labels=[0, 1]).ravel().tolist(),
           "calibration": [counts.tolist(), mean.tolist(), observed.tolist()]}
    if both:
        false_positives, true_positives, _ = metrics.roc_curve(y, p, drop_intermediate=False)
        out["roc"] = [false_positives.tolist(), true_positives.tolist()]
    if y.any():
        precision, recall, _ = metrics.precision_recall_curve(y, p)
        # Ascending thresholds, and (1, 0) at the end.
        out["precision_recall"] = [precision[-2::-1].tolist(), recall[-2::-1].tolist()]
    return out


for line in open(sys.argv[1], encoding="utf-8"):
    case = json.loads(line)
    print(json.dumps(figures(numpy.array(case["probability"], dtype=float), numpy.array(case["churned"], dtype=int))))
