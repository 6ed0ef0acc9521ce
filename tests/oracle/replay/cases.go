// Package replay sends the same requests to upstream's API server and to ours and compares the answers.
//
// Cases are YAML files: a list of scenarios, each a list of steps. A scenario has a namespace of its own on
// both servers; the steps run in order. What is known to differ is written into the case with the reason,
// and a difference that is no longer there is an error, so that cases cannot rot.
package replay

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Scenario is a story told by requests.
type Scenario struct {
	// Name says what is shown.
	Name  string `json:"scenario"`
	Steps []Step `json:"steps"`
	file  string
}

// Step is a request, or a watch with what happens while it is open.
type Step struct {
	// Do is the method and the path with the query. {ns} is the scenario's namespace, ${name} a saved value.
	Do string `json:"do"`
	// Headers of the request. A body is sent as JSON unless Content-Type says otherwise.
	Headers map[string]string `json:"headers,omitempty"`
	// Body is sent as JSON.
	Body any `json:"body,omitempty"`
	// Raw is sent as it is.
	Raw *string `json:"raw,omitempty"`
	// User impersonates somebody.
	User string `json:"user,omitempty"`
	// Save keeps values of the answer for later steps: name to path.
	Save map[string]string `json:"save,omitempty"`
	// Events is how many events to read of a watch; During happens once it is open.
	Events int    `json:"events,omitempty"`
	During []Step `json:"during,omitempty"`
	// Quiet steps prepare something: both must succeed, or the run ends.
	Quiet bool `json:"quiet,omitempty"`
	// Ignore are paths that are not compared, because no two servers have them the same.
	Ignore []string `json:"ignore,omitempty"`
	// Differs are known differences.
	Differs []Gap `json:"differs,omitempty"`
}

// Gap is a known difference: where, and why.
type Gap struct {
	// At is "status", "header NAME", a path below "body" (its end may be *), or "*" for everything.
	At     string `json:"at"`
	Reason string `json:"reason"`
}

const documented = "the descriptions of columns are upstream's documentation of its Go types, which is not part of ours"

// everywhere are the known differences of all answers. They do not make an answer count as a differing one.
var everywhere = []Gap{
	{"body.columnDefinitions[].description", documented},
	{"body[].object.columnDefinitions[].description", documented},
	{"header X-Kubernetes-Pf-*", "API priority and fairness is not built: no flow schema and no priority level to name"},
}

// Read reads the case files of a folder; only those whose name contains the filter.
func Read(folder, filter string) ([]Scenario, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var all []Scenario
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var scenarios []Scenario
		if err := yaml.UnmarshalStrict(text, &scenarios); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, s := range scenarios {
			s.file = filepath.Base(file)
			if err := check(s.Steps); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", file, s.Name, err)
			}
			if strings.Contains(s.file+" "+s.Name, filter) {
				all = append(all, s)
			}
		}
	}
	return all, nil
}

func check(steps []Step) error {
	for _, step := range steps {
		if len(strings.Fields(step.Do)) != 2 {
			return fmt.Errorf("do: %q is not a method and a path", step.Do)
		}
		for _, gap := range step.Differs {
			if gap.At == "" || gap.Reason == "" {
				return fmt.Errorf("do: %q: a difference needs a place and a reason", step.Do)
			}
		}
		if err := check(step.During); err != nil {
			return err
		}
	}
	return nil
}
