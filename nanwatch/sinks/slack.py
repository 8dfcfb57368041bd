"""A notification in Slack's form: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")
_MAX_HEADER = 150
_MAX_SECTION = 3000
_MARKS = {"critical": ":red_circle:", "warning": ":large_orange_circle:", "info": ":large_blue_circle:"}


def slack_message(body: Mapping[str, Any]) -> dict[str, Any]:
    """`{text, blocks}` of a notification's body."""
    data = body["data"]
    title, text = str(data["title"]), str(data["text"])
    fallback = _cut(f"{escaped(title)}\n{escaped(text)}", _MAX_SECTION)
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": title[:_MAX_HEADER], "emoji": False}},
        _section(f"{_MARKS.get(str(data['severity']), '')} {escaped(text)}"),
    ]
    code = (data.get("origin") or {}).get("code")
    if code:
        fenced = escaped(str(code).strip()).replace("```", "'''")
        blocks.append(_section(f"```{_cut(fenced, _MAX_SECTION - 6)}```"))
    more = [f"• {escaped(str(line))}" for line in data.get("fix", [])[1:]]
    if more:
        blocks.append(_section("\n".join(more)))
    found = [f"<{escaped(url)}|{name}>" for name, url in data.get("links", {}).items()]
    if found:
        blocks.append(_section(" · ".join(found)))
    return {"text": fallback, "blocks": blocks}


def escaped(text: str) -> str:
    """Text in which Slack sees no markup of its own: no mentions (`<!channel>`), no links."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": _cut(text, _MAX_SECTION)}}


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    # Never through the middle of an entity such as &amp;.
    head = text[: limit - 1]
    cut, end = head.rfind("&"), head.rfind(";")
    return (head[:cut] if cut > end and limit - cut < 8 else head) + "…"
