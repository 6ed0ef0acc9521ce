// Package facts collects facts about the API from upstream's packages by calling them.
package facts

import (
	"runtime/debug"
)

// Facts is the fact file.
type Facts struct {
	Kubernetes string
	Staging    string
	SHA256     string
	Groups     []Group
	Resources  []Resource
	Kinds      []Kind
	Structs    []Struct
	RBAC       RBAC
}

// Group is an API group with its served versions, the preferred one first.
type Group struct {
	Name     string   `json:"name"`
	Versions []string `json:"versions"`
}

// Collect asks for everything.
func Collect() (*Facts, error) {
	k8s, staging := versions()
	shapes := newShapes()
	groups, resources, err := collectResources(shapes)
	if err != nil {
		return nil, err
	}
	kinds := shapes.kinds(groups)
	rbac, err := collectRBAC()
	if err != nil {
		return nil, err
	}
	return &Facts{
		Kubernetes: k8s,
		Staging:    staging,
		Groups:     groups,
		Resources:  resources,
		Kinds:      kinds,
		Structs:    shapes.structs,
		RBAC:       rbac,
	}, nil
}

// versions are those of the modules this program was built with.
func versions() (k8s, staging string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", ""
	}
	for _, d := range info.Deps {
		version := d.Version
		if d.Replace != nil {
			version = d.Replace.Version
		}
		switch d.Path {
		case "k8s.io/kubernetes":
			k8s = version
		case "k8s.io/api":
			staging = version
		}
	}
	return k8s, staging
}
