"""`rewardmesh serve KIND`: one server in this process."""

from __future__ import annotations

from collections.abc import Callable

import typer

from rewardmesh.cli.failure import USAGE, fail
from rewardmesh.cli.kinds import KINDS, config_class, server_factory

serve_app = typer.Typer(help="Run one server of a mesh in this process.", no_args_is_help=True)

# Everything after the kind, --help too, is for the command made from the kind's configuration; only that kind is imported.
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def _serve(kind: str) -> Callable[[typer.Context], None]:
    def command(ctx: typer.Context) -> None:
        from rewardmesh.cli.options import config_command
        from rewardmesh.serving import ConfigError, ServerConfig

        def run(config: ServerConfig) -> None:
            try:
                _run(kind, config)
            except ConfigError as error:
                fail(error, USAGE)

        try:
            config_command(config_class(kind), run, KINDS[kind])(ctx.args, prog_name=ctx.command_path)
        except ConfigError as error:
            fail(error, USAGE)

    return command


for _kind, _help in KINDS.items():
    serve_app.command(_kind, help=_help, context_settings=_PASS_ON, add_help_option=False)(_serve(_kind))


def _run(kind: str, config: object) -> None:
    from rewardmesh.serving import ServerConfig, run_server

    assert isinstance(config, ServerConfig)
    try:
        run_server(server_factory(kind), config, kind)
    except OSError as error:
        fail(f"serve {kind}: {error}")
    except RuntimeError as error:
        if "bind" not in str(error):
            raise
        fail(f"serve {kind}: cannot listen on {config.host}:{config.port}; is the port taken?")
    except Exception as error:
        # The class comes with torch, which a verifier or a gateway does not import.
        if type(error).__name__ != "LoadError":
            raise
        fail(f"serve {kind}: {error}")
