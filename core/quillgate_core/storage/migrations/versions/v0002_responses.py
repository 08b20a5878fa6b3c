"""Responses that are kept, and whether a workspace keeps any."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    store: sa.Column[bool] = sa.Column(
        "store_responses",
        sa.Boolean(),
        server_default="true",
        nullable=False,
        comment="whether responses may be kept",
    )
    op.add_column("workspaces", store)
    _create_responses()


def _create_responses() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "responses",
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("response_id", sa.Text(), nullable=False, comment="resp_ and letters or digits"),
        sa.Column("response", sa.LargeBinary(), nullable=False, comment="quillgate.v1.Response"),
        sa.Column(
            "items",
            sa.LargeBinary(),
            nullable=False,
            comment="quillgate.v1.ResponseItemList: the conversation before it",
        ),
        sa.Column(
            "own_input_from", sa.Integer(), nullable=False, comment="position in items of this turn's first item"
        ),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False, comment="not shown from then on"),
        sa.CheckConstraint("own_input_from >= 0", name=op.f("ck_responses_own_input_from_not_negative")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.workspace_id"], name=op.f("fk_responses_workspace_id")),
        sa.PrimaryKeyConstraint("workspace_id", "response_id", name=op.f("pk_responses")),
    )
    op.create_index(op.f("ix_responses_expire_time"), "responses", ["expire_time"])
