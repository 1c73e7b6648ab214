# Shared by the scripts; to be sourced from the repository's root.

# need COMMAND WORDS: stops unless COMMAND is there, saying what to install.
need() {
    command -v "$1" >/dev/null 2>&1 || {
        echo "error: $1 is missing: $2" >&2
        exit 1
    }
}

need_rust_and_cpp() {
    need cargo "install Rust with rustup"
    need c++ "install a C++ compiler (Debian, Ubuntu: build-essential; macOS: xcode-select --install)"
}

# Where cargo puts what it builds.
target_dir() {
    cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}

# The cache that the command uses by default, as a path that holds in any working folder.
SALIENT_HOME=${SALIENT_HOME:-${XDG_CACHE_HOME:-${HOME:-$PWD}/.cache}/salient}
case $SALIENT_HOME in
    /*) ;;
    *) SALIENT_HOME=$PWD/$SALIENT_HOME ;;
esac
export SALIENT_HOME

# wheels NAME PIN...: unpacks the pinned Python wheels, without what they depend on, into a folder
# under cargo's target folder, and sets wheels_dir to it. Other pins are another folder, and a folder
# is there whole or not at all.
wheels() {
    local name=$1
    shift
    need python3 "install Python 3"
    python3 -m pip --version >/dev/null 2>&1 || {
        echo "error: python3 has no pip: install it (Debian, Ubuntu: python3-pip)" >&2
        exit 1
    }
    local parent
    parent=$(target_dir)/wheels
    wheels_dir=$parent/$name-$(cksum <<<"$*" | cut -d' ' -f1)
    [[ ! -d $wheels_dir ]] || return 0
    mkdir -p "$parent"
    local partial
    partial=$(mktemp -d "$parent/.$name.XXXXXX")
    if ! python3 -m pip install --quiet --no-deps --root-user-action=ignore \
        --target "$partial" "$@" >&2; then
        rm -rf "$partial"
        echo "error: cannot install $*" >&2
        exit 1
    fi
    chmod 755 "$partial"
    # Where another run was faster, its folder is as good.
    mv -T "$partial" "$wheels_dir" || rm -rf "$partial"
}
