"""`deb-export doctor`: what this machine can build and run."""

from __future__ import annotations

import click

from exporter.commands.options.shared import debug_option


@click.command()
@debug_option
def doctor() -> int:
    """Say what is installed, what is missing, and how to get it.

    Exits with 3 when not even graphs can be built here; engines are optional.
    """
    from exporter.doctor import diagnose

    found = diagnose()
    memory = "unknown" if found.memory_gib is None else f"{found.memory_gib:.1f} GiB"
    click.echo(f"deb-export   {found.tool}, Python {found.python}, {found.system}")
    click.echo(f"processor    {found.processor}, {found.processors} usable, memory {memory}")
    threads = "the runtime's choice" if found.threads is None else found.threads
    quota = "" if found.quota is None else f", the container's limit is {found.quota:g} processors"
    click.echo(f"threads      {threads} by default{quota}")
    click.echo(f"gpu          {'; '.join(found.gpus) or 'none found'}")
    click.echo(f"int8         products {found.int8}")
    for item in found.software:
        state = f"{item.problem}" if item.problem else "ok"
        click.echo(f"{item.name:<12} {item.version or '-':<11} {state}  (for {item.needed_for})")
    for target in found.targets:
        mark = "ready" if target.ready else "not available"
        click.echo(f"target {target.name}: {mark}, {target.detail}")
    for plugin in found.plugins:
        mark = "ready" if plugin.ready else "not available"
        click.echo(f"plugin {plugin.name}: {mark}, {plugin.detail}")
    for provider in found.providers:
        mark = "ready" if provider.ready else "not available"
        click.echo(f"provider {provider.name}: {mark}, {provider.detail}")
    return 0 if found else 3
