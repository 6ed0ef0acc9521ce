// Command oracle asks upstream's own packages for facts about the API.
//
// "oracle facts" writes the fact file that the api crate embeds. Regenerate it with
//
//	cd tests/oracle && go run . facts > ../../controlplane/api/facts/facts.json
//
// "oracle serve" answers questions, one JSON object per line, by running upstream's decoding, defaulting,
// strategies and validation; see package ask.
//
// "oracle http" starts upstream's API server and ours and replays the same requests against both; see
// package replay.
//
// All of them are run by "cargo xtask oracle".
//
// The fact file holds names, numbers, flags and policy, no documentation. Its "sha256" is the hash of the
// file with that field empty.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"windlass/oracle/ask"
	"windlass/oracle/facts"
	"windlass/oracle/replay"
)

const usage = `usage:
  oracle facts > facts.json
  oracle serve < questions > answers
  oracle http -etcd PROGRAM -kube-apiserver PROGRAM -windlass PROGRAM -cases FOLDER -state FOLDER [-only TEXT]`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "serve":
		return ask.Serve(os.Stdin, os.Stdout)
	case len(args) == 1 && args[0] == "facts":
		return writeFacts()
	case len(args) > 1 && args[0] == "http":
		return http(args[1:])
	}
	return errors.New(usage)
}

func writeFacts() error {
	all, err := facts.Collect()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(encode(all))
	all.SHA256 = hex.EncodeToString(sum[:])
	_, err = os.Stdout.Write(encode(all))
	return err
}

func http(args []string) error {
	var programs replay.Programs
	flags := flag.NewFlagSet("oracle http", flag.ExitOnError)
	flags.StringVar(&programs.Etcd, "etcd", "", "etcd")
	flags.StringVar(&programs.Upstream, "kube-apiserver", "", "upstream's API server")
	flags.StringVar(&programs.Ours, "windlass", "", "our binary")
	cases := flags.String("cases", "", "folder of case files")
	state := flags.String("state", "", "folder for state and logs; it must be empty")
	only := flags.String("only", "", "only scenarios whose file or name contains this")
	if err := flags.Parse(args); err != nil {
		return err
	}
	scenarios, err := replay.Read(*cases, *only)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	pair, err := replay.Start(ctx, programs, *state)
	if err != nil {
		return err
	}
	defer pair.Stop()
	report, err := replay.Run(ctx, pair, scenarios, os.Stdout)
	if err != nil {
		return err
	}
	if *only == "" {
		report.Whole()
	}
	return summary(report, len(scenarios))
}

func summary(report *replay.Report, scenarios int) error {
	fmt.Println()
	var reasons []string
	for reason := range report.Gaps {
		reasons = append(reasons, reason)
	}
	slices.Sort(reasons)
	for _, reason := range reasons {
		fmt.Printf("  %4d × %s\n", report.Gaps[reason], reason)
	}
	for _, problem := range report.Problems {
		fmt.Println("PROBLEM", problem)
	}
	fmt.Printf("%d scenarios: %d answers compared, %d differ, %d accepted\n",
		scenarios, report.Compared(), report.Differing, report.Expected)
	if len(report.Problems) > 0 {
		return fmt.Errorf("%d problems", len(report.Problems))
	}
	return nil
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
