# Run a command on a machine with a root folder of its own: everything that is here, and CONTENT as PLACE.
#
#     unshare --map-root-user --mount sh own_root.sh EMPTY_FOLDER CONTENT PLACE COMMAND …
#
# The mounts exist for the command alone and end with it. It is root there, as in Colab, and has your rights here.
set -e
root=$1 content=$2 place=$3
shift 3
mount -t tmpfs own_root "$root"
for entry in /*; do
    if [ -L "$entry" ]; then
        cp -P "$entry" "$root"
    elif [ -d "$entry" ]; then
        mkdir "$root$entry"
        mount --rbind "$entry" "$root$entry"
    fi
done
mkdir -p "$root$place"
mount --bind "$content" "$root$place"
exec chroot "$root" env --chdir="$place" "$@"
