"""The subcommands of `singlelife`, a file each: `add_command` describes its command line and names what runs it.

A command imports what it needs when it runs, so that `--help` is quick.
"""
