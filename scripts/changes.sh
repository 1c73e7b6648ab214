# What has changed, for checks that only run then; to be sourced from the repository's root.

# Sets base, the commit that changes are counted from, and since, what it is; fails where it cannot
# be told.
find_base() {
    local branch
    git rev-parse --verify --quiet "HEAD^{commit}" >/dev/null 2>&1 || return 1
    for branch in origin/HEAD origin/main main; do
        base=$(git merge-base HEAD "$branch" 2>/dev/null) || continue
        since="the merge base with $branch"
        [[ $base == "$(git rev-parse HEAD)" ]] || return 0
    done
    # On the base branch itself. A commit that has a tag is checked for what led to it.
    if base=$(git describe --tags --abbrev=0 "HEAD^" 2>/dev/null); then
        since="tag $base"
        return 0
    fi
    # Not there either in a shallow clone and at the first commit.
    base=$(git rev-parse --verify --quiet "HEAD^{commit}^1") || return 1
    since="the commit before"
}

# changed CHECK PATH...: whether there are changes in these paths, and says so.
changed() {
    local check=$1 paths
    shift
    if ! find_base; then
        echo "$check: runs, since there is no telling what has changed"
        return 0
    fi
    # Where git fails, the check runs: callers ask in a condition, where nothing else would stop them.
    paths=$(
        git diff --name-only "$base" -- "$@" && git ls-files --others --exclude-standard -- "$@"
    ) || paths="(git cannot tell)"
    if [[ -z $paths ]]; then
        echo "$check: skipped, nothing it depends on has changed since $since"
        return 1
    fi
    echo "$check: runs, since there are changes since $since:"
    sed -n '1,5s/^/    /p' <<<"$paths"
}
