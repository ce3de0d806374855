"""Reads a pipeline's definition from YAML or JSON."""

import yaml as yaml_reader
from clave_common.errors import InvalidArgument
from clave_contracts.trainer import PipelineSpec
from pydantic import ValidationError

_BYTES_MAX = 256 * 1024


class SpecUnreadable(InvalidArgument):
    """The definition cannot be read; says where."""

    code = "pipeline_unreadable"


def read_spec(content: bytes, *, yaml: bool) -> PipelineSpec:
    """Read a definition.

    Args:
        content: UTF-8 text, at most 256 KiB.
        yaml: Whether it is YAML; JSON otherwise.

    Raises:
        SpecUnreadable: Names the line or the field and what is wrong with it.
    """
    if len(content) > _BYTES_MAX:
        raise SpecUnreadable(f"A pipeline's definition has at most {_BYTES_MAX} bytes.", limit=_BYTES_MAX)
    try:
        if yaml:
            return PipelineSpec.model_validate(yaml_reader.safe_load(content))
        return PipelineSpec.model_validate_json(content)
    except yaml_reader.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise SpecUnreadable(f"{line}the YAML cannot be read.", line=mark.line + 1 if mark else None) from error
    except ValidationError as error:
        faults = [
            {"field": ".".join(str(part) for part in each["loc"]) or "definition", "fault": each["msg"]}
            for each in error.errors()[:20]
        ]
        raise SpecUnreadable(f"{faults[0]['field']}: {faults[0]['fault']}.", faults=faults) from error
