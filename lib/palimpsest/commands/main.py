"""The `palimpsest` command."""

import typer

from . import accept, audit, bench, check, claims, data, decode, doctor, pages, run, unlearn

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for command in (
    check.check,
    unlearn.unlearn,
    decode.decode,
    run.run,
    audit.audit,
    claims.claims,
    accept.accept,
    pages.render_pages,
    bench.bench,
    data.data,
    doctor.doctor,
):
    app.command(command.__name__.removeprefix("render_"))(command)
