"""The one place that talks to the Hugging Face Hub.

`client`: the API, tokens, repositories and retries; `push` and `pull`: files to and from a repository; `cards`: model
and dataset cards from `templates/`; `errors`: what went wrong, in words that a user can act on. It knows nothing of
lives, runs or pair sets: those rooms give it files and fields.
"""
