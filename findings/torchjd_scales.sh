#!/usr/bin/env bash
# TorchJD: aggregators that are exchanged for the mean change the step's length, and small gradients change its direction.
#
# Expected: an aggregator of equal gradients returns that gradient, so that it can stand in the mean's place at the same
#   learning rate; and gradients of a tenth of the length give a tenth of the result, in the same direction.
# Seen: of k equal gradients PCGrad and GradVac return k times the gradient, CAGrad 1 + c times it, and FairGrad and
#   Nash-MTL one whose length is the inverse of the gradient's. Of two gradients in conflict PCGrad, MGDA, IMTL-G and
#   AlignedMTL give the same direction at every scale. Where the norms fall below about 0.01, UPGrad and DualProj return the
#   plain mean, which increases one of the losses, CAGrad returns 0, and FairGrad and Nash-MTL turn against one gradient.
# Who meets it: whoever compares aggregators at one learning rate, and whoever combines gradients that become small, as those
#   of a policy with normalised advantages do: the combiner stops to be one without a message.
# Where it comes from: `norm_eps` of UPGrad, DualProj and CAGrad, absolute bounds in the solvers of the others, and
#   definitions that sum (torchjd/aggregation).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0 "torchjd[full]==0.18.0" \
  numpy==2.4.6 cvxpy==1.9.3 clarabel==0.11.1 ecos==2.0.14 quadprog==0.1.14 qpsolvers==4.13.0 scipy==1.17.1
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

import torch
from torchjd import aggregation

warnings.simplefilter("ignore")  # of cvxpy, about Nash-MTL's problem
MADE = {
    "UPGrad": aggregation.UPGrad,
    "DualProj": aggregation.DualProj,
    "PCGrad": aggregation.PCGrad,
    "GradVac": aggregation.GradVac,
    "CAGrad(c=0.4)": lambda: aggregation.CAGrad(c=0.4),
    "FairGrad(alpha=1)": lambda: aggregation.FairGrad(alpha=1.0),
    "NashMTL": lambda: aggregation.NashMTL(n_tasks=2),
    "MGDA": aggregation.MGDA,
    "IMTLG": aggregation.IMTLG,
    "AlignedMTL": aggregation.AlignedMTL,
}
equal, conflict = torch.tensor([[3.0, 4.0]] * 2), torch.tensor([[1.0, 0.0], [-2.0, 1.0]])
print(f"TorchJD {version('torchjd')}")
print("  two equal gradients of length 5, and of length 50: the result's length over theirs")
lengths = {}
for name, make in MADE.items():
    lengths[name] = [float(make()(scale * equal).norm() / (5 * scale)) for scale in (1, 10)]
    print(f"    {name}: " + ", ".join(f"{length:.3f}" for length in lengths[name]))
print("  gradients (1, 0) and (-2, 1), times 1, 0.01, 0.001 and 0.0001: the result over its length")
directions = {}
for name, make in MADE.items():
    results = [make()(scale * conflict) for scale in (1, 1e-2, 1e-3, 1e-4)]
    directions[name] = [result / result.norm() if result.norm() > 0 else result for result in results]
    print(f"    {name}: " + ", ".join(f"({x:.2f}, {y:.2f})" for x, y in (d.tolist() for d in directions[name])))


def near(value, expected):
    return bool(torch.allclose(torch.as_tensor(value), torch.as_tensor(expected), atol=0.01))


mean = torch.tensor([-0.5, 0.5])
mean = mean / mean.norm()
as_described = (
    all(near(lengths[name], [2.0, 2.0]) for name in ("PCGrad", "GradVac"))
    and near(lengths["CAGrad(c=0.4)"], [1.4, 1.4])
    and all(9 < lengths[name][0] / lengths[name][1] < 11 for name in ("FairGrad(alpha=1)", "NashMTL"))
    and all(near(lengths[name], [1.0, 1.0]) for name in ("UPGrad", "DualProj", "MGDA", "IMTLG", "AlignedMTL"))
    and all(near(directions[name][3], mean) and not near(directions[name][1], mean) for name in ("UPGrad", "DualProj"))
    and near(directions["CAGrad(c=0.4)"][3], [0.0, 0.0])
    and all(directions[name][0][0] > 0 > directions[name][3][0] for name in ("FairGrad(alpha=1)", "NashMTL"))
    and all(near(directions[name][3], directions[name][0]) for name in ("PCGrad", "MGDA", "IMTLG", "AlignedMTL"))
)
print("as described" if as_described else "CHANGED")
sys.exit(not as_described)
PYTHON
