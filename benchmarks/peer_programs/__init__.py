"""Programs that run other tools, each by the interpreter of that tool's environment: ``PROGRAM IN OUT [MORE]``."""
