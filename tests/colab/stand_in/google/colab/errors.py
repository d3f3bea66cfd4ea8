class MessageError(Exception):
    """What Colab raises when the browser's answer is a refusal."""
