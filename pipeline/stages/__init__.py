"""One thin final class a stage: the only place where rooms are wired together."""
