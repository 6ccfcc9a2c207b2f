"""The command line: which commands there are. Each imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import typer

from rewardmesh.cli.audit import audit_app
from rewardmesh.cli.demo import demo
from rewardmesh.cli.doctor import doctor
from rewardmesh.cli.principles import principles
from rewardmesh.cli.score import score
from rewardmesh.cli.serve import serve_app
from rewardmesh.cli.shim import shim
from rewardmesh.cli.train import report, train
from rewardmesh.cli.training_models import train_policy, train_reward
from rewardmesh.cli.up import status, up
from rewardmesh.cli.version import version

app = typer.Typer(
    name="rewardmesh",
    help="Reward models, judges, verifiers and reference policies as a gRPC mesh, with an online trainer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(serve_app, name="serve")
app.add_typer(audit_app, name="audit")
for _command in (demo, up, status, score, shim, train, train_policy, train_reward, report, principles, doctor, version):
    app.command()(_command)
