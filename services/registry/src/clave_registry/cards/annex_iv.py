"""A draft of the technical documentation that the EU AI Act asks for, from what the card knows.

Headings are those of Annex IV, points 1 to 9, of Regulation (EU) 2024/1689. What the registry cannot know is named as
owed by the provider; a draft is no statement of conformity.
"""

from collections.abc import Mapping
from typing import Any

from clave_registry.cards.rendering import figure, markdown_text

HEADINGS = (
    "A general description of the AI system",
    "A detailed description of the elements of the AI system and of the process for its development",
    "Detailed information about the monitoring, functioning and control of the AI system",
    "A description of the appropriateness of the performance metrics for the specific AI system",
    "A detailed description of the risk management system in accordance with Article 9",
    "A description of relevant changes made by the provider to the system through its lifecycle",
    "A list of the harmonised standards applied in full or in part",
    "A copy of the EU declaration of conformity referred to in Article 47",
    "A detailed description of the system in place to evaluate the AI system performance in the post-market phase",
)
OWED = "Owed by the provider; the registry does not know it."


def annex_iv(card: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a card out under the headings of Annex IV.

    Returns:
        ``sections``: number, heading, what is known (name to value), and what is still owed.
    """
    details, usage, limits = card["model_details"], card["usage_notes"], card["limitations"]
    performance, governance = card["performance"], card["governance"]
    compared = performance.get("against_champion")
    known: tuple[dict[str, Any], ...] = (
        {
            "Intended purpose": usage["intended_use"],
            "Name and version": details["id"],
            "Previous version": governance["parent_version"],
            "Instructions for use": "; ".join(usage["notes"]),
            "Served at": ", ".join(usage["endpoints"]),
        },
        {
            "Algorithm": details["algorithm"],
            "Parameters": ", ".join(f"{name} = {value}" for name, value in sorted(details["parameters"].items())),
            "Inputs": ", ".join(details["feature_set"]["features"]),
            "Training data": "; ".join(
                f"{data['name']}, {figure(data['rows'])} rows, sha256 {data['digest']}"
                for data in details["training_data"]
            ),
            "Code": governance["code_version"],
            "Environment": governance["environment_digest"],
            "Integrity": f"sha256 {details['manifest_digest']}",
            "Human oversight": _oversight(governance),
        },
        {
            "Limitations": "; ".join(limits["stated"] + limits["found"]),
            "Groups": "; ".join(
                f"{row['slice']}: " + ", ".join(f"{one['name']} {figure(one['estimate'])}" for one in row["figures"])
                for row in performance["slices"]
            ),
            "Decision threshold": usage["threshold"],
            "Rate limit per minute": usage["rate_limit_per_minute"],
        },
        {
            "Metrics": "; ".join(
                f"{metric['name']}: "
                + ", ".join(f"{split} {figure(value)}" for split, value in metric["values"].items())
                for metric in performance["metrics"]
            ),
            "Gates": "; ".join(f"{gate['gate']}: {gate['verdict']}" for gate in performance["gates"]),
            "Evaluated on": f"{figure(performance['rows'])} rows" if performance["rows"] else None,
        },
        {"Risk class": governance["risk_class"], "Ethical considerations": limits["ethical_considerations"]},
        {
            "Compared with": f"version {compared['version']}" if compared else None,
            "History": card["links"].get("version"),
            "Retrained when": usage["retrain_when"],
        },
        {},
        {},
        {"Retraining policy": usage["retrain_when"], "Run": card["links"].get("run")},
    )
    sections = [_section(number, heading, known[number - 1]) for number, heading in enumerate(HEADINGS, start=1)]
    return {"regulation": "Regulation (EU) 2024/1689, Annex IV", "system": details["id"], "sections": sections}


def _oversight(governance: Mapping[str, Any]) -> str:
    people = [f"{a['decision']} by {a['by']} at {a['at']}" for a in governance["approvals"]]
    return "; ".join(people) or f"{governance['status']}, approved by {governance['approved_by'] or 'nobody'}"


def _section(number: int, heading: str, known: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: value for name, value in known.items() if value is not None and value != ""}
    owed = [name for name in known if name not in said] or ([] if said else [OWED])
    return {"number": number, "heading": heading, "known": said, "owed": owed}


def annex_iv_markdown(document: Mapping[str, Any]) -> str:
    """Write the draft as Markdown."""
    lines = [f"# Technical documentation (draft): {markdown_text(document['system'])}", ""]
    lines += [f"{document['regulation']}.", ""]
    for section in document["sections"]:
        lines += [f"## {section['number']}. {section['heading']}", ""]
        lines += [f"- **{name}**: {markdown_text(value)}" for name, value in section["known"].items()]
        lines += [f"- **Still owed**: {markdown_text(name)}" for name in section["owed"]]
        lines.append("")
    return "\n".join(lines)
