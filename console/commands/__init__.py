"""The subcommands of `popsteer`, one file for each group; `console.cli` lists them."""
