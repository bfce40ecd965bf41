"""`mmgen completion bash|zsh|fish`: prints the script that asks `mmgen --complete LINE` for what could stand next."""

from __future__ import annotations

from pathlib import Path

from mmgen.commands.actions import NoOptions, action_of, only, read_options

# A candidate that ends in one of these is not finished: no space follows it.
OPEN = "=./[,"

SCRIPTS = {
    "bash": """\
_mmgen() {
    local line="${COMP_LINE:0:COMP_POINT}" found word strip=""
    mapfile -t found < <(mmgen --complete "$line" 2>/dev/null)
    word="${line##*[[:space:]]}"
    # bash takes what follows = and : for a word of its own
    [[ $word == *=* && $COMP_WORDBREAKS == *=* ]] && strip="${word%"${word##*=}"}"
    [[ $word == *:* && $COMP_WORDBREAKS == *:* ]] && strip="${word%"${word##*:}"}"
    COMPREPLY=("${found[@]#"$strip"}")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=./[,] ]] && compopt -o nospace
    return 0
}
complete -o default -F _mmgen mmgen
""",
    "zsh": """\
#compdef mmgen
_mmgen() {
    local -a found closed open
    found=("${(@f)$(mmgen --complete "$LBUFFER" 2>/dev/null)}")
    found=(${found:#})
    closed=(${found:#*[=./\\[,]})
    open=(${(M)found:#*[=./\\[,]})
    (( $#closed )) && compadd -Q -- $closed
    (( $#open )) && compadd -Q -S '' -- $open
    (( $#found )) || _files
}
compdef _mmgen mmgen
""",
    "fish": """\
function __mmgen_complete
    set -l found (mmgen --complete (commandline -cp) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c mmgen -f -a '(__mmgen_complete)'
""",
}


def main(words: list[str], overrides: list[str], config_dir: Path | None = None) -> int:
    """Prints a shell's script; gives the exit code."""
    shell, rest = action_of("completion", words)
    only(rest, 0, 0, f"mmgen completion {shell}")
    read_options(NoOptions, overrides)
    print(SCRIPTS[shell], end="")
    return 0
