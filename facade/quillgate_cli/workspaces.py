"""`quillgate workspaces`: WorkspaceService for people. Must not decide anything: core does."""

import click
from google.protobuf.field_mask_pb2 import FieldMask

from quillgate.v1.workspace_service_pb2 import (
    AT_ALLOWANCE_ALLOW,
    AT_ALLOWANCE_REFUSE,
    AT_ALLOWANCE_UNSPECIFIED,
    AtAllowance,
    CreateWorkspaceRequest,
    GetWorkspaceRequest,
    ListWorkspacesRequest,
    ListWorkspacesResponse,
    UpdateWorkspaceRequest,
    Workspace,
)
from quillgate_cli import output
from quillgate_cli.argument import AMOUNT, checked_id, json_option, workspace_id_argument
from quillgate_cli.connection import Core, with_core
from quillgate_cli.failure import WrongUsage
from quillgate_cli.pages import PAGE_SIZE, all_pages
from quillgate_cli.table import Column

app = click.Group("workspaces", help="Who is billed, and how much a day.", no_args_is_help=False)

_NO_LIMIT = "no limit"

_allowance_option = click.option("--allowance", type=AMOUNT, help="Messages a UTC day; 0 admits none.")
_store_option = click.option(
    "--store-responses/--no-store-responses", default=None, help="Whether responses may be kept, to be continued."
)
_no_limit_option = click.option("--no-allowance-limit", is_flag=True, help="As many messages a day as they like.")
_monthly_option = click.option("--monthly-allowance", type=AMOUNT, help="Messages a UTC month; 0 admits none.")
_no_monthly_option = click.option("--no-monthly-limit", is_flag=True, help="As many messages a month as they like.")
_AT_ALLOWANCE = {"refuse": AT_ALLOWANCE_REFUSE, "allow": AT_ALLOWANCE_ALLOW}
_at_allowance_option = click.option(
    "--at-allowance",
    type=click.Choice(list(_AT_ALLOWANCE)),
    help="What happens when an allowance is used up: refuse, or allow and count the overage.",
)
_switched_id_argument = click.argument("workspace_id", callback=checked_id)


@app.command()
@click.option("--name", required=True, help="What people call it.")
@_allowance_option
@_no_limit_option
@_monthly_option
@_at_allowance_option
@_store_option
@json_option
@with_core
def create(
    core: Core,
    *,
    name: str,
    allowance: int | None,
    no_allowance_limit: bool,
    monthly_allowance: int | None,
    at_allowance: str | None,
    store_responses: bool | None,
    as_json: bool,
) -> None:
    """Make a workspace; without allowances it has no limit, and it keeps responses unless told not to."""
    _check_allowance(allowance, no_allowance_limit)
    request = CreateWorkspaceRequest(
        name=name,
        daily_message_allowance=allowance,
        store_responses=store_responses,
        monthly_message_allowance=monthly_allowance,
        at_allowance=_at_allowance(at_allowance),
    )
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
    columns = [Column("WORKSPACE", whole=True), Column("NAME"), Column("ALLOWANCE", number=True)]
    columns += [Column("MONTHLY", number=True), Column("BEYOND"), Column("DISABLED"), Column("CREATED")]
    output.print_table(columns, map(_row, workspaces))


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
@_monthly_option
@_no_monthly_option
@_at_allowance_option
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
    monthly_allowance: int | None,
    no_monthly_limit: bool,
    at_allowance: str | None,
    store_responses: bool | None,
    as_json: bool,
) -> None:
    """Change name, allowances or storage, from the next request on; without an id, of your key's own workspace."""
    _check_allowance(allowance, no_allowance_limit)
    if monthly_allowance is not None and no_monthly_limit:
        raise WrongUsage("--monthly-allowance and --no-monthly-limit exclude each other")
    changes = {
        "name": name is not None,
        "daily_message_allowance": allowance is not None or no_allowance_limit,
        "store_responses": store_responses is not None,
        "monthly_message_allowance": monthly_allowance is not None or no_monthly_limit,
        "at_allowance": at_allowance is not None,
    }
    paths = [field for field, changed in changes.items() if changed]
    if not paths:
        raise WrongUsage(
            "nothing to change: give --name, --allowance, --no-allowance-limit, --monthly-allowance, "
            "--no-monthly-limit, --at-allowance or --[no-]store-responses"
        )
    request = UpdateWorkspaceRequest(
        workspace_id=workspace_id or "",
        name=name or "",
        daily_message_allowance=allowance,
        store_responses=store_responses,
        update_mask=FieldMask(paths=paths),
        monthly_message_allowance=monthly_allowance,
        at_allowance=_at_allowance(at_allowance),
    )
    _show(core.call(core.workspaces.UpdateWorkspace, request).workspace, as_json)


@app.command()
@_switched_id_argument
@json_option
@with_core
def disable(core: Core, *, workspace_id: str, as_json: bool) -> None:
    """Refuse a workspace's keys from the next request on, and end what runs, until it is enabled again."""
    _switch(core, workspace_id, disabled=True, as_json=as_json)


@app.command()
@_switched_id_argument
@json_option
@with_core
def enable(core: Core, *, workspace_id: str, as_json: bool) -> None:
    """Serve a disabled workspace's keys again, from the next request on."""
    _switch(core, workspace_id, disabled=False, as_json=as_json)


def _switch(core: Core, workspace_id: str, *, disabled: bool, as_json: bool) -> None:
    mask = FieldMask(paths=["disabled"])
    request = UpdateWorkspaceRequest(workspace_id=workspace_id, disabled=disabled, update_mask=mask)
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
            "Allowance": _with_unit(_allowance(workspace), "messages a day"),
            "Monthly": _with_unit(_monthly(workspace), "messages a month"),
            "Beyond": "allowed, counted as overage" if _beyond(workspace) == "allowed" else "refused",
            "Responses": "kept" if workspace.store_responses else "not kept",
            "Disabled": _disabled(workspace),
            "Created": _created(workspace),
            "Updated": output.moment(workspace, "update_time"),
        }
    )


def _row(workspace: Workspace) -> list[str]:
    allowances = [_allowance(workspace), _monthly(workspace), _beyond(workspace)]
    return [workspace.workspace_id, workspace.name, *allowances, _disabled(workspace), _created(workspace)]


def _at_allowance(name: str | None) -> "AtAllowance.ValueType":
    return AT_ALLOWANCE_UNSPECIFIED if name is None else _AT_ALLOWANCE[name]


def _allowance(workspace: Workspace) -> str:
    limited = workspace.HasField("daily_message_allowance")
    return output.count(workspace.daily_message_allowance) if limited else _NO_LIMIT


def _monthly(workspace: Workspace) -> str:
    limited = workspace.HasField("monthly_message_allowance")
    return output.count(workspace.monthly_message_allowance) if limited else _NO_LIMIT


def _with_unit(allowance: str, unit: str) -> str:
    return allowance if allowance == _NO_LIMIT else f"{allowance} {unit}"


def _beyond(workspace: Workspace) -> str:
    """Returns what happens to requests beyond an allowance."""
    return "allowed" if workspace.at_allowance == AT_ALLOWANCE_ALLOW else "refused"


def _disabled(workspace: Workspace) -> str:
    return output.moment(workspace, "disable_time", absent="no")


def _created(workspace: Workspace) -> str:
    return output.moment(workspace, "create_time")
