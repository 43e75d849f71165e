"""The command line: parse, build, call, exit code.

A subcommand imports what it needs inside its function, so that `raymodel check` loads neither
torch nor ray and answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from raymodel import __version__
from raymodel.errors import SpecError
from raymodel.observe.ending import run_command

if TYPE_CHECKING:
    from raymodel.spec.load import LoadedJob


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0 done, 1 the run failed, 2 the job file or an input is wrong, 3 an evaluation gate was not
        met, 130 interrupted, 141 nobody reads what it prints.
    """

    def call() -> int:
        arguments = build_parser().parse_args(argv)
        code: int = arguments.call(arguments)
        return code

    return run_command(call)


def build_parser() -> argparse.ArgumentParser:
    """The commands and their arguments; each sets `call` to its function."""
    parser = argparse.ArgumentParser(
        prog="raymodel",
        description="One job file takes raw data to a served model on a Ray cluster.",
    )
    parser.add_argument("--version", action="version", version=f"raymodel {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_job_commands(commands)
    _add_submission_commands(commands)
    _add_reference_commands(commands)
    return parser


def _add_job_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser("run", help="run a job here, or go on with it")
    _add_job(run)
    run.add_argument("--address", help="a running Ray cluster; by default this machine")
    run.add_argument("--keep-serving", action="store_true", help="serve until interrupted")
    run.set_defaults(call=run_job)

    monitor = commands.add_parser(
        "monitor",
        help="classify texts as they come, and tell when a class rises",
        description="Does what the section `monitor` of a job says until Ctrl-C: asks the server "
        "of `serve`, which another command runs, or the one of monitor.url.",
    )
    _add_job(monitor)
    monitor.set_defaults(call=monitor_texts)

    check = commands.add_parser("check", help="check a job file, starting nothing")
    _add_job(check)
    check.set_defaults(call=check_job)

    plan = commands.add_parser("plan", help="steps, memory, time and resources, starting nothing")
    _add_job(plan)
    plan.add_argument(
        "--on",
        metavar="MACHINES",
        help="check that it fits: h100:8x4 is 4 machines of 8 H100, 64GiBx2 two without GPUs",
    )
    plan.set_defaults(call=plan_job)

    submit = commands.add_parser("submit", help="run a job on a cluster, following its log")
    _add_job(submit)
    _add_dashboard(submit)
    submit.add_argument(
        "--env",
        dest="environment",
        metavar="NAME",
        action="append",
        default=[],
        help="give the job this variable of this environment, such as a secret; may be repeated",
    )
    until_the_end = submit.add_mutually_exclusive_group()
    until_the_end.add_argument(
        "--follow", action="store_true", help="wait for the job to end; the default"
    )
    until_the_end.add_argument("--detach", action="store_true", help="do not wait for it")
    submit.set_defaults(call=submit_job)


def _add_submission_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    logs = commands.add_parser("logs", help="print the log of a submitted job")
    logs.add_argument("--follow", action="store_true", help="until the job ends; its exit code")
    logs.set_defaults(call=print_logs)
    stop = commands.add_parser("stop", help="stop a submitted job; it saves a checkpoint first")
    stop.add_argument(
        "--serving", action="store_true", help="take down the app that the job serves instead"
    )
    stop.set_defaults(call=stop_job)
    for command in (logs, stop):
        _add_job(command, "JOB|ID", "the job file, its name, or the id that `submit` printed")
        _add_dashboard(command)

    doctor = commands.add_parser("doctor", help="examine a cluster before an expensive start")
    _add_job(doctor, help="the job file: its storage and workers are tried", nargs="?")
    doctor.add_argument(
        "--address",
        help="a running Ray cluster, or its dashboard http://HEAD:8265; default: "
        "$RAY_API_SERVER_ADDRESS, $RAY_ADDRESS, else this machine",
    )
    doctor.set_defaults(call=examine_cluster)


def _add_reference_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = commands.add_parser("status", help="list the runs of a storage, and what is served")
    status.add_argument(
        "storage", nargs="?", default="runs", help="or the folder of one run; default: runs"
    )
    status.add_argument(
        "--address",
        help="the dashboard of a cluster, to list what it serves; default: $RAY_API_SERVER_ADDRESS",
    )
    status.set_defaults(call=print_status)

    _add_chat(commands)
    _add_serve(commands)
    _add_export(commands)

    describe = commands.add_parser("describe", help="explain a section or field of a job file")
    describe.add_argument("field", nargs="?", default="", help="such as pretrain.optimizer")
    describe.set_defaults(call=describe_field)

    schema = commands.add_parser("schema", help="print the JSON Schema of a job file")
    schema.set_defaults(call=print_schema)

    init = commands.add_parser("init", help="write a small job file to begin with")
    init.add_argument("path", nargs="?", default="job.yaml", help="default: job.yaml")
    init.set_defaults(call=write_first_job)


def _add_chat(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    chat = commands.add_parser(
        "chat",
        help="talk to a model in the terminal",
        description="Talks to a model: one that is served, or one that is loaded here. At the "
        "terminal /reset forgets the conversation, Ctrl-C stops an answer and Ctrl-D ends. Of a "
        "pipe each line is a turn, and nothing but the answers is printed on stdout.",
    )
    chat.add_argument(
        "model",
        metavar="RUN|FOLDER|URL",
        help="a run, whose best model it is; RUN/STAGE; a Hugging Face folder; or a server of "
        "OpenAI's API, such as http://127.0.0.1:8000",
    )
    chat.add_argument("--system", metavar="TEXT", help="what the model is told before all turns")
    chat.add_argument("--temperature", type=float, help="0 is greedy; default: 1")
    chat.add_argument(
        "--max-tokens", type=int, metavar="N", help="longest answer; default: the server's, or 1024"
    )
    chat.add_argument("--name", help="of the model, on a server with several")
    chat.add_argument(
        "--token-env",
        metavar="NAME",
        default="RAYMODEL_TOKEN",
        help="the environment variable with the server's token; default: RAYMODEL_TOKEN",
    )
    _add_storage(chat)
    chat.set_defaults(call=chat_with_model)


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve a model that is there, until Ctrl-C",
        description="Serves a model behind an HTTP API until Ctrl-C, or on a running cluster for "
        "good: what a job with nothing but the section `serve` does. `raymodel describe serve` "
        "tells all that --set can say.",
    )
    serve.add_argument(
        "model",
        metavar="RUN|FOLDER|URI",
        help="a run, whose best model it is; RUN/STAGE; a Hugging Face folder, here or in a "
        "bucket; hf://OWNER/NAME[@REVISION]; or python:PACKAGE/path",
    )
    serve.add_argument("--port", type=int, help="default: 8000; the same as --set serve.port=PORT")
    _add_overrides(serve, "what a job file would say, such as serve.batch=16; may be repeated")
    serve.add_argument("--address", help="a running Ray cluster; by default this machine")
    _add_storage(serve)
    serve.set_defaults(call=serve_model)


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = commands.add_parser(
        "export",
        help="write a model for other programs",
        description="Writes a model for other programs: as one GGUF file (llama.cpp, Ollama, "
        "LM Studio, OpenVINO), as a graph (ONNX Runtime, OpenVINO) where it does not write texts, "
        "or as a Hugging Face folder (transformers, vLLM).",
    )
    export.add_argument(
        "model",
        metavar="RUN|FOLDER|URI",
        help="a run, whose best model it is; RUN/STAGE; a Hugging Face folder; or "
        "hf://OWNER/NAME[@REVISION]",
    )
    formats = ["gguf", "onnx", "openvino", "folder"]
    export.add_argument("--to", required=True, choices=formats, help="the format")
    export.add_argument(
        "--type",
        choices=["f32", "f16", "q8_0", "q4_0", "q4_1"],
        help="of the matrices in a GGUF file: q8_0 is half of f16, q4_0 a quarter; default: f16",
    )
    export.add_argument("--out", metavar="PATH", help="default: the name of the run or folder")
    _add_storage(export)
    export.set_defaults(call=export_model)


def _add_dashboard(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--address", help="the dashboard, http://HEAD:8265; default: $RAY_API_SERVER_ADDRESS"
    )


def _add_job(
    command: argparse.ArgumentParser,
    metavar: str = "JOB",
    help: str = "the job file",
    nargs: str | None = None,
) -> None:
    command.add_argument("job", metavar=metavar, help=help, nargs=nargs)
    _add_overrides(
        command, "replace a value of the job file, such as cluster.workers=4; may be repeated"
    )


def _add_overrides(command: argparse.ArgumentParser, help: str) -> None:
    command.add_argument(
        "--set", dest="overrides", metavar="FIELD=VALUE", action="append", default=[], help=help
    )


def _add_storage(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--storage", default="runs", help="where runs are looked up by name; default: runs"
    )


def load_checked(arguments: argparse.Namespace) -> LoadedJob:
    """The job that the arguments name, with every check passed."""
    from raymodel.job.check import check_job
    from raymodel.spec.load import load_job

    loaded = load_job(arguments.job, arguments.overrides)
    check_job(loaded)
    return loaded


def run_job(arguments: argparse.Namespace) -> int:
    from raymodel.cluster.variables import load_variables

    load_variables()  # with them the Hub is asked
    loaded = load_checked(arguments)
    from raymodel.job.run import run

    run(
        loaded.job,
        address=arguments.address,
        keep_serving=arguments.keep_serving,
        job_path=loaded.path,
        settings=[word for each in arguments.overrides for word in ("--set", each)],
    )
    return 0


def monitor_texts(arguments: argparse.Namespace) -> int:
    loaded = load_checked(arguments)
    if loaded.job.monitor is None:
        raise SpecError(
            f"{arguments.job} has no `monitor:` section; add one, as `raymodel describe monitor` "
            "says"
        )
    from raymodel.monitor.start import monitor_alone
    from raymodel.observe.story import Story

    monitor_alone(loaded.job, Story().say)
    return 0


def check_job(arguments: argparse.Namespace) -> int:
    loaded = load_checked(arguments)
    from raymodel.job.outline import outline

    print(f"{arguments.job}: ok")
    for stage, words in outline(loaded.job):
        print(f"  {stage:<9} {words}")
    return 0


def plan_job(arguments: argparse.Namespace) -> int:
    loaded = load_checked(arguments)
    from pathlib import Path

    from raymodel.cluster.devices import parse_fleet
    from raymodel.job.forecast import plan_job
    from raymodel.job.forecast_text import plan_text

    fleet = parse_fleet(arguments.on) if arguments.on else None
    plan = plan_job(loaded.job, Path.cwd(), fleet)
    print(plan_text(plan))
    plan.check()
    return 0


def submit_job(arguments: argparse.Namespace) -> int:
    from raymodel.cluster.address import dashboard_url

    loaded, url = load_checked(arguments), dashboard_url(arguments.address)
    from raymodel.cluster.submit import submit

    return submit(
        loaded,
        url=url,
        overrides=arguments.overrides,
        environment=arguments.environment,
        follow=not arguments.detach,
    )


def print_logs(arguments: argparse.Namespace) -> int:
    from raymodel.cluster.address import dashboard_url

    url = dashboard_url(arguments.address)
    from raymodel.cluster.follow import print_logs

    return print_logs(
        arguments.job,
        url=url,
        overrides=arguments.overrides,
        follow_on=arguments.follow,
    )


def stop_job(arguments: argparse.Namespace) -> int:
    from raymodel.cluster.address import dashboard_url

    url = dashboard_url(arguments.address)
    if arguments.serving:
        from raymodel.cluster.serving import stop_serving as end
    else:
        from raymodel.cluster.follow import stop as end

    return end(arguments.job, url=url, overrides=arguments.overrides)


def examine_cluster(arguments: argparse.Namespace) -> int:
    from raymodel.cluster.address import dashboard_url, means_dashboard

    loaded = load_checked(arguments) if arguments.job else None
    if means_dashboard(arguments.address):
        url = dashboard_url(arguments.address)
        from raymodel.cluster.submit import submit_doctor

        return submit_doctor(url, loaded, arguments.overrides)
    from raymodel.cluster.doctor import examine
    from raymodel.cluster.findings import exit_code
    from raymodel.cluster.variables import load_variables
    from raymodel.observe.text import table_text

    load_variables()
    findings = examine(arguments.address, loaded.job if loaded else None)
    print(table_text([finding.row() for finding in findings]))
    for finding in findings:
        if finding.fix:
            print(f"\n{finding.verdict}: {finding.check}, {finding.where}: {finding.seen}")
            print(f"  fix: {finding.fix}")
    return exit_code(findings)


def print_status(arguments: argparse.Namespace) -> int:
    from raymodel.cluster.address import dashboard_url, find_dashboard
    from raymodel.observe.status import print_status

    print_status(arguments.storage)
    if not arguments.address and find_dashboard() is None:
        return 0
    url = dashboard_url(arguments.address)
    from raymodel.cluster.served import served_rows
    from raymodel.observe.text import table_text

    rows = served_rows(url)
    print("\n" + (table_text(rows) if rows else f"nothing is served on {url}"))
    return 0


def chat_with_model(arguments: argparse.Namespace) -> int:
    from raymodel.serve.chat_model import ChatSettings
    from raymodel.serve.chat_terminal import chat

    chat(
        arguments.model,
        ChatSettings(temperature=arguments.temperature, max_tokens=arguments.max_tokens),
        system=arguments.system,
        name=arguments.name,
        token_env=arguments.token_env,
        storage=arguments.storage,
    )
    return 0


def serve_model(arguments: argparse.Namespace) -> int:
    from raymodel.cluster.variables import load_variables
    from raymodel.job.check import check_job
    from raymodel.job.of_model import serving_job

    load_variables()  # with them the Hub is asked
    port = [] if arguments.port is None else [f"serve.port={arguments.port}"]
    loaded = serving_job(arguments.model, arguments.storage, [*arguments.overrides, *port])
    check_job(loaded)
    from raymodel.job.run import run

    run(loaded.job, address=arguments.address, keep_serving=True, job_path=None)
    return 0


def export_model(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from raymodel.serve.export import export_model

    path, num_bytes = export_model(
        arguments.model,
        to=arguments.to,
        type=arguments.type,
        out=Path(arguments.out) if arguments.out else None,
        storage=arguments.storage,
    )
    print(f"wrote {path}, {num_bytes / 1e6:,.1f} MB")
    return 0


def describe_field(arguments: argparse.Namespace) -> int:
    from raymodel.job.spec import Job
    from raymodel.spec.reference import describe

    print(describe(Job, arguments.field))
    return 0


def print_schema(arguments: argparse.Namespace) -> int:
    import json

    from raymodel.job.spec import Job
    from raymodel.spec.schema import json_schema

    print(json.dumps(json_schema(Job), indent=2))  # ASCII: any terminal can show it whole
    return 0


def write_first_job(arguments: argparse.Namespace) -> int:
    from importlib.resources import files

    text = files("raymodel.spec").joinpath("first_job.yaml").read_text(encoding="utf-8")
    try:
        with open(arguments.path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SpecError(
            f"{arguments.path} exists already and is left as it is; give another name"
        ) from None
    except OSError as error:
        raise SpecError(f"{arguments.path}: cannot be written: {error.strerror}") from error
    print(f"wrote {arguments.path}; next: raymodel check {arguments.path}")
    return 0
