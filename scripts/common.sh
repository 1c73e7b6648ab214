# Shared by the scripts; to be sourced from the repository's root.

# need COMMAND WORDS: stops unless COMMAND is there, saying what to install.
need() {
    command -v "$1" >/dev/null 2>&1 || {
        echo "error: $1 is missing: $2" >&2
        exit 1
    }
}

need_rust_and_c() {
    need cargo "install Rust with rustup"
    need cc "install a C compiler (Debian, Ubuntu: build-essential; macOS: xcode-select --install)"
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
