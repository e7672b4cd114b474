"""What a process that autorestart spawns runs first, in the place of the program that was started.

``spawn`` imports the main module of its parent under the name ``__mp_main__``; see ``cszoo_launch``.
"""

if __name__ == "__mp_main__":
    from cerebras_utils.register import register

    register()
    from cerebras_utils.cszoo_callbacks import watch_runs

    watch_runs()
