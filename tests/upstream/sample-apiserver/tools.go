//go:build tools

// Package upstream names the programs of this project that `cargo xtask` builds on demand, so that
// go.mod and go.sum pin everything they need. Nothing imports it.
package upstream

import (
	_ "k8s.io/sample-apiserver"
)
