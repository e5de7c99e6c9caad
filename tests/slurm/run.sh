#!/usr/bin/env bash
# Starts a Slurm with two nodes on loopback (Debian's slurm-wlm and munge; as root) in a temporary folder, and runs a program in it:
#   tests/slurm/run.sh python tests/slurm/faults.py
# Without Slurm it says so and does nothing. SLURM_FOLDER names the folder to its programs; it is removed at the end.
set -euo pipefail

for program in slurmctld slurmd munged sbatch; do
    command -v "$program" > /dev/null || PATH=$PATH:/usr/sbin command -v "$program" > /dev/null \
        || { echo "tests/slurm: skipped, $program is not installed (Debian: slurm-wlm, munge)"; exit 0; }
done
PATH=$PATH:/usr/sbin

folder=$(mktemp -d /tmp/slurm.XXXXXX)
cd "$(dirname "$0")/../.."
end() {
    for file in "$folder"/*.pid; do kill "$(cat "$file")" 2> /dev/null || true; done
    sleep 1
    [ -n "${KEEP:-}" ] || rm -rf "$folder"
}
trap end EXIT

chmod 755 "$folder"
mkdir -p "$folder"/{state,spool/n1,spool/n2,log,munge}
for gpu in 0 1; do mknod "$folder/gpu$gpu" c 1 3; done # Slurm takes only devices; these lead to /dev/null
chmod 700 "$folder/munge"
dd if=/dev/urandom of="$folder/munge/key" bs=128 count=1 status=none
chmod 400 "$folder/munge/key"
sed "s|@DIR@|$folder|g" tests/slurm/slurm.conf > "$folder/slurm.conf"
sed "s|@DIR@|$folder|g" tests/slurm/gres.conf > "$folder/gres.conf"
export SLURM_CONF=$folder/slurm.conf SLURM_FOLDER=$folder
munged --force --key-file="$folder/munge/key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/log/munged" --seed-file="$folder/munge/seed" --num-threads=2
slurmctld -c
for node in n1 n2; do slurmd -N $node -c; done
for _ in $(seq 300); do [ "$(sinfo --noheader --format=%A --partition=low 2> /dev/null)" = 0/2 ] && break; sleep 1; done
sinfo
"$@"
