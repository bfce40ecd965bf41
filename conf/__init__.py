"""The shipped configs, as files; importable as `mmgen.conf`."""
