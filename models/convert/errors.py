"""The one error of conversion."""


class ConversionError(ValueError):
    """Something that can't be converted; the message names it, what was found and what would be right."""
