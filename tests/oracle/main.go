// Command oracle asks upstream's own packages for facts about the API.
//
// "oracle facts" writes the fact file that the api crate embeds. Regenerate it with
//
//	cd tests/oracle && go run . facts > ../../controlplane/api/facts/facts.json
//
// "oracle serve" answers questions, one JSON object per line, by running upstream's decoding, defaulting,
// strategies and validation; see package ask. "oracle random SEED COUNT" makes up chains of writes and
// answers them with upstream's field manager.
//
// The fact file holds names, numbers, flags and policy, no documentation. Its "sha256" is the hash of the
// file with that field empty.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"windlass/oracle/ask"
	"windlass/oracle/facts"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		if err := ask.Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "oracle:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 4 && os.Args[1] == "random" {
		if err := random(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, "oracle:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) != 2 || os.Args[1] != "facts" {
		fmt.Fprintln(os.Stderr, "usage: oracle facts > facts.json | oracle serve < questions > answers | oracle random SEED COUNT > chains")
		os.Exit(2)
	}
	all, err := facts.Collect()
	if err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
	sum := sha256.Sum256(encode(all))
	all.SHA256 = hex.EncodeToString(sum[:])
	if _, err := os.Stdout.Write(encode(all)); err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}

func random(seed, count string) error {
	s, err := strconv.ParseUint(seed, 10, 64)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	return ask.Random(s, n, os.Stdout)
}

// encode writes one line per resource and struct, so that a diff of the checked-in file is readable.
func encode(all *facts.Facts) []byte {
	var out bytes.Buffer
	line := func(value any) {
		var one bytes.Buffer
		e := json.NewEncoder(&one)
		e.SetEscapeHTML(false)
		if err := e.Encode(value); err != nil {
			panic(err)
		}
		out.Write(bytes.TrimSpace(one.Bytes()))
	}
	list := func(name string, n int, item func(int) any) {
		fmt.Fprintf(&out, "%q:[", name)
		for i := range n {
			if i > 0 {
				out.WriteByte(',')
			}
			out.WriteByte('\n')
			line(item(i))
		}
		out.WriteString("]")
	}
	fmt.Fprintf(&out, "{\"kubernetes\":%q,\"staging\":%q,\"sha256\":%q,\n", all.Kubernetes, all.Staging, all.SHA256)
	list("groups", len(all.Groups), func(i int) any { return all.Groups[i] })
	out.WriteString(",\n")
	list("resources", len(all.Resources), func(i int) any { return all.Resources[i] })
	out.WriteString(",\n")
	list("kinds", len(all.Kinds), func(i int) any { return all.Kinds[i] })
	out.WriteString(",\n")
	list("structs", len(all.Structs), func(i int) any { return all.Structs[i] })
	out.WriteString(",\n\"rbac\":{")
	list("cluster_roles", len(all.RBAC.ClusterRoles), func(i int) any { return all.RBAC.ClusterRoles[i] })
	out.WriteString(",\n")
	list("cluster_role_bindings", len(all.RBAC.ClusterRoleBindings), func(i int) any { return all.RBAC.ClusterRoleBindings[i] })
	out.WriteString(",\n")
	list("roles", len(all.RBAC.Roles), func(i int) any { return all.RBAC.Roles[i] })
	out.WriteString(",\n")
	list("role_bindings", len(all.RBAC.RoleBindings), func(i int) any { return all.RBAC.RoleBindings[i] })
	out.WriteString("}}\n")
	return out.Bytes()
}
