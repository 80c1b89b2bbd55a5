"""The one place that talks to the Hugging Face Hub.

`client`: the API, tokens, repositories and retries; `push` and `pull`: files to and from a repository; `cards`: model
and dataset cards from `templates/`; `errors`: messages that a user can act on. Nothing here knows about lives, runs or
pair sets: their packages pass in files and fields.
"""
