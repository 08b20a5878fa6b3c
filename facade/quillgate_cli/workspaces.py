"""`quillgate workspaces`: WorkspaceService for people. Must not decide anything: core does."""

import click
from google.protobuf.field_mask_pb2 import FieldMask

from quillgate.v1.workspace_service_pb2 import (
    CreateWorkspaceRequest,
    GetWorkspaceRequest,
    ListWorkspacesRequest,
    ListWorkspacesResponse,
    UpdateWorkspaceRequest,
    Workspace,
)
from quillgate_cli import output
from quillgate_cli.argument import AMOUNT, json_option, workspace_id_argument
from quillgate_cli.connection import Core, with_core
from quillgate_cli.failure import WrongUsage
from quillgate_cli.pages import PAGE_SIZE, all_pages
from quillgate_cli.table import Column

app = click.Group("workspaces", help="Who is billed, and how much a day.", no_args_is_help=False)

_allowance_option = click.option("--allowance", type=AMOUNT, help="Messages a UTC day; 0 admits none.")
_store_option = click.option(
    "--store-responses/--no-store-responses", default=None, help="Whether responses may be kept, to be continued."
)
_no_limit_option = click.option("--no-allowance-limit", is_flag=True, help="As many messages as they like.")


@app.command()
@click.option("--name", required=True, help="What people call it.")
@_allowance_option
@_no_limit_option
@_store_option
@json_option
@with_core
def create(
    core: Core,
    *,
    name: str,
    allowance: int | None,
    no_allowance_limit: bool,
    store_responses: bool | None,
    as_json: bool,
) -> None:
    """Make a workspace; without --allowance it has no limit, and it keeps responses unless told not to."""
    _check_allowance(allowance, no_allowance_limit)
    request = CreateWorkspaceRequest(name=name, daily_message_allowance=allowance, store_responses=store_responses)
    response = core.call(core.workspaces.CreateWorkspace, request)
    _show(response.workspace, as_json)


@app.command("list")
@json_option
@with_core
def list_(core: Core, *, as_json: bool) -> None:
    """List the workspaces that your key can see, oldest first."""

    def list_page(page_token: str) -> ListWorkspacesResponse:
        request = ListWorkspacesRequest(page_size=PAGE_SIZE, page_token=page_token)
        return core.call(core.workspaces.ListWorkspaces, request)

    workspaces = [workspace for page in all_pages(list_page) for workspace in page.workspaces]
    if as_json:
        output.print_json(output.json_value(ListWorkspacesResponse(workspaces=workspaces)))
        return
    columns = [Column("WORKSPACE", whole=True), Column("NAME"), Column("ALLOWANCE", number=True), Column("CREATED")]
    output.print_table(columns, ([w.workspace_id, w.name, _allowance(w), _created(w)] for w in workspaces))


@app.command()
@workspace_id_argument
@json_option
@with_core
def show(core: Core, *, workspace_id: str | None, as_json: bool) -> None:
    """Show a workspace; without an id, your key's own."""
    response = core.call(core.workspaces.GetWorkspace, GetWorkspaceRequest(workspace_id=workspace_id or ""))
    _show(response.workspace, as_json)


@app.command()
@workspace_id_argument
@click.option("--name", help="What people call it.")
@_allowance_option
@_no_limit_option
@_store_option
@json_option
@with_core
def update(
    core: Core,
    *,
    workspace_id: str | None,
    name: str | None,
    allowance: int | None,
    no_allowance_limit: bool,
    store_responses: bool | None,
    as_json: bool,
) -> None:
    """Change name, allowance or storage, from the next request on; without an id, of your key's own workspace."""
    _check_allowance(allowance, no_allowance_limit)
    changes = {
        "name": name is not None,
        "daily_message_allowance": allowance is not None or no_allowance_limit,
        "store_responses": store_responses is not None,
    }
    paths = [field for field, changed in changes.items() if changed]
    if not paths:
        raise WrongUsage("nothing to change: give --name, --allowance, --no-allowance-limit or --[no-]store-responses")
    request = UpdateWorkspaceRequest(
        workspace_id=workspace_id or "",
        name=name or "",
        daily_message_allowance=allowance,
        store_responses=store_responses,
        update_mask=FieldMask(paths=paths),
    )
    _show(core.call(core.workspaces.UpdateWorkspace, request).workspace, as_json)


def _check_allowance(allowance: int | None, no_allowance_limit: bool) -> None:
    if allowance is not None and no_allowance_limit:
        raise WrongUsage("--allowance and --no-allowance-limit exclude each other")


def _show(workspace: Workspace, as_json: bool) -> None:
    if as_json:
        output.print_json({"workspace": output.json_value(workspace)})
        return
    output.print_fields(
        {
            "Workspace": workspace.workspace_id,
            "Name": workspace.name,
            "Allowance": f"{_allowance(workspace)} messages a day" if _limited(workspace) else "no limit",
            "Responses": "kept" if workspace.store_responses else "not kept",
            "Created": _created(workspace),
            "Updated": output.moment(workspace, "update_time"),
        }
    )


def _limited(workspace: Workspace) -> bool:
    return workspace.HasField("daily_message_allowance")


def _allowance(workspace: Workspace) -> str:
    return output.count(workspace.daily_message_allowance) if _limited(workspace) else "no limit"


def _created(workspace: Workspace) -> str:
    return output.moment(workspace, "create_time")
