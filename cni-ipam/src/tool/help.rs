//! What `--help` teaches.

pub(super) const TEXT: &str = "\
cni-ipam shows and mends the leases of pod addresses on this node.

Usage: cni-ipam <command> [options]

Commands
  list                 who has which address, and how full the pools are
  show <IP or id>      all about one address, or about one container's addresses;
                       the beginning of a container id is enough
  show --map           a picture of each pool, one character an address
  verify               compares records, index and the kernel's links; changes nothing
  repair [--dry-run]   heals damaged records and ends leases whose pods are provably gone
  release <IP>         frees an address of which you know that nobody has it;
                       --force even if the pod's link is there
  export [--to DIR]    the way back: hands the leases over to host-local, in its directory
                       DIR (/var/lib/cni/networks), and removes the store; pods go on.
                       After the runtime has the configuration of bridge and host-local

Options
  -n, --network NAME   one network; without it, all that have a store
  -d, --data-dir DIR   where the stores are, as `dataDir` in the configuration
                       (/run/cni-ipam)
      --json           for scripts
  -h, --help           this text

Exit status: 0 healthy or done, 1 problems found or not done, 2 wrong command line.

Examples
  \"no IP addresses available in range set\": who has them all?
      cni-ipam list
      cni-ipam repair --dry-run
      cni-ipam repair
  Which pod has this address?
      cni-ipam show 10.64.1.7
  Which addresses does this container have?
      cni-ipam show 4f2b1c0a9d3e
  For a monitor, every minute
      cni-ipam verify >/dev/null || alert
  How full are the pools?
      cni-ipam list --json | jq '.networks[].pools[] | {subnet, used, free}'
  Without this tool
      grep -h '^A' /run/cni-ipam/cbr0/*.leases

A lease ends with the DEL of its pod, with a GC of the runtime, or with the boot. A lease of
cni-bridge also ends by itself when the pool is full and its pod's link is gone. Leases of
other main plugins, and those taken over from host-local, show no link: only you can tell
that their pods are gone.

Run by a runtime, with CNI_COMMAND in the environment, this program is the IPAM plugin.
";
