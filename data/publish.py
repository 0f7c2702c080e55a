"""`python -m data.publish --cache DIR --to s3://bucket/prefix`: lay a cache in an object store, where search and evaluation read it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from data.base.errors import UserError
from data.cli.command import run_command
from data.cli.command_line import About


@dataclass(frozen=True)
class PublishOptions:
    """Lay a cache in an object store. Search and evaluation then take --cache s3://bucket/prefix and read the ranges that they need, each
    checked against the checksums that are published with them. Run it again after a change of the cache: it sends what is new and removes
    what is gone."""

    cache: Annotated[Path, About.INPUT]
    """Folder of the cache, or a merged file."""
    to: Annotated[str, About.OUTPUT]
    """Address of the store, such as s3://bucket/prefix; any scheme that fsspec knows. Endpoint and credentials are those of the
    environment, such as AWS_ENDPOINT_URL and AWS_ACCESS_KEY_ID."""
    check: Annotated[bool, About.OUTPUT] = False
    """Read back what is in the store already, and send again what is damaged. Default: files of the right size are taken for whole."""
    quiet: Annotated[bool, About.OUTPUT] = False
    """Show no progress."""
    json: Annotated[bool, About.OUTPUT] = False
    """Print the result as one JSON line on standard output."""


def main(options: PublishOptions) -> int:
    """Publish the cache and return the exit status. Raises UserError as `publish` does, and if there is no cache."""
    from data.cache import FeatureCache  # numpy and pandas load late, so that --help answers at once
    from data.store.address import address_of, require_folder
    from data.store.publishing import publish

    address = address_of(options.to)
    if address is None:
        raise UserError(f"--to {options.to} must be the address of a store, such as s3://bucket/prefix")
    if address.startswith("memory:"):
        raise UserError(f"--to {options.to} would end with this command: name a store such as s3://bucket/prefix")
    require_folder(options.cache, "--cache")
    cache = FeatureCache(options.cache)
    done = publish(cache.folder, address, options.check, options.quiet)
    if options.json:
        print(json.dumps({"to": address, **asdict(done)}))
    else:
        removed = f", {done.removed:,} removed" if done.removed else ""
        print(f"{address}: {done.files:,} files, {done.sent:,} of them sent now ({done.bytes_sent / 2**20:.1f} MiB){removed}")
    return 0


if __name__ == "__main__":
    run_command(
        PublishOptions,
        main,
        prog="python -m data.publish",
        status=int,
        examples=("--cache runs/cache --to s3://bucket/prefix", "--cache runs/cache --to s3://bucket/prefix --check"),
    )
