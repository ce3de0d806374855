"""What runs beside the API: the audit sequencer, the decision log's reader, OPA's publisher."""
