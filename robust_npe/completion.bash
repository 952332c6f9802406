# bash completion of robust-npe: eval "$(robust-npe completion)"
_robust_npe() {
    local command="${COMP_WORDS[1]}" word="${COMP_LINE:0:COMP_POINT}"
    word="${word##* }"
    if ((COMP_CWORD <= 1)); then
        COMPREPLY=($(compgen -W "@COMMANDS@" -- "$word"))
        return
    fi
    # Hydra completes an application without commands: hide the command from it
    local line="robust-npe ${COMP_LINE#*"$command" }"
    local choices
    choices=$(COMP_LINE="$line" COMP_POINT="${#line}" robust-npe "$command" -sc query=bash 2>/dev/null)
    COMPREPLY=($(compgen -o nospace -W "$choices" -- "$word"))
    # bash splits words at "=": answer with what comes after it alone
    if [[ "$COMP_WORDBREAKS" == *=* && "$word" == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
    fi
}
complete -o nospace -o default -F _robust_npe robust-npe
