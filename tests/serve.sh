# Sourced by the scripts that look at `orthoscope serve`: starts it over the copy of an index in "$work", and leaves its
# number in `server` and where it listens in `address`. Needs `binary` and `work`.

"$binary" serve --index "$work/index.db" --bind 127.0.0.1:0 --no-token >"$work/out" &
server=$!
address=
for _ in $(seq 100); do
    address=$(sed -n 's/^listening on //p' "$work/out")
    test -n "$address" && break
    sleep 0.1
done
test -n "$address" || { echo "the server did not start" >&2; exit 1; }
