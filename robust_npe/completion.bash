# bash completion of robust-npe: eval "$(robust-npe completion)"
_robust_npe() {
    local line="${COMP_LINE:0:COMP_POINT}"
    local word="${line##* }"
    local -a words
    read -ra words <<< "${line% *}"
    [[ "$line" == *" "* ]] || return
    local IFS=$'\n'
    COMPREPLY=($(robust-npe --complete "${words[@]:1}" "$word" 2>/dev/null))
    # bash splits words at "=": answer with what comes after it alone
    if [[ "$COMP_WORDBREAKS" == *=* && "$word" == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
    fi
}
complete -o nospace -o default -F _robust_npe robust-npe
