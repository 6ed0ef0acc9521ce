package ask

import (
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"slices"

	"windlass/oracle/facts"
)

// object is the tree of a body.
type object = map[string]any

// Random writes chains of random writes with upstream's answers, one per line.
func Random(seed uint64, count int, out io.Writer) error {
	strategies, err := facts.Strategies()
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	g := generator{rand.New(rand.NewPCG(seed, 0))}
	for range count {
		steps := g.chain(strategies)
		line := struct {
			Steps   []Step   `json:"steps"`
			Answers []Answer `json:"answers"`
		}{steps, managed(strategies, steps).Steps}
		if err := encoder.Encode(line); err != nil {
			return err
		}
	}
	return nil
}

type generator struct{ *rand.Rand }

func (g generator) chance(percent int) bool { return g.IntN(100) < percent }

func pick[T any](g generator, from ...T) T { return from[g.IntN(len(from))] }

// some fills an object with some of the fields.
func (g generator) some(percent int, fields map[string]func() any) object {
	out := object{}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if g.chance(percent) {
			out[name] = fields[name]()
		}
	}
	return out
}

// chain grows step by step: updates are made from what the last step left.
func (g generator) chain(strategies facts.StrategyMap) []Step {
	kind := pick(g, "Pod", "Service", "Deployment", "ConfigMap")
	var steps []Step
	var live object
	for range 3 + g.IntN(5) {
		step := Step{Verb: "apply", Manager: pick(g, "a", "b", "kubectl"), Force: g.chance(40)}
		body := g.body(kind)
		if live == nil || g.chance(50) {
			step.Verb = pick(g, "apply", "apply", "update")
		}
		if live != nil && kind != "ConfigMap" && g.chance(15) {
			step.Subresource = "status"
		}
		if step.Verb == "update" && live != nil {
			body = g.edit(live, body)
		}
		if step.Verb == "update" {
			step.Manager = pick(g, "m", "n", "o", "")
		}
		step.Object, _ = json.Marshal(body)
		steps = append(steps, step)
		answers := managed(strategies, steps).Steps
		if last := answers[len(answers)-1].Object; last != nil {
			live = object{}
			if err := json.Unmarshal(last, &live); err != nil {
				panic(err)
			}
		}
	}
	return steps
}

// edit is what a client sends that has read the object and changed something.
func (g generator) edit(live, new object) object {
	out := object{}
	for name, value := range live {
		out[name] = value
	}
	metadata := object{}
	for name, value := range live["metadata"].(object) {
		if name != "managedFields" || g.chance(60) {
			metadata[name] = value
		}
	}
	for _, name := range []string{"labels", "annotations", "finalizers"} {
		if value, ok := new["metadata"].(object)[name]; ok && g.chance(70) {
			metadata[name] = value
		} else if g.chance(20) {
			delete(metadata, name)
		}
	}
	out["metadata"] = metadata
	for _, name := range []string{"spec", "data", "status"} {
		if value, ok := new[name]; ok && g.chance(70) {
			out[name] = value
		}
	}
	return out
}

func (g generator) body(kind string) object {
	metadata := g.some(30, map[string]func() any{
		"labels":      func() any { return g.strings() },
		"annotations": func() any { return g.strings() },
		"finalizers":  func() any { return g.names("x/a", "x/b", "x/c") },
	})
	metadata["name"], metadata["namespace"] = "r", "x"
	out := object{"apiVersion": "v1", "kind": kind, "metadata": metadata}
	switch kind {
	case "ConfigMap":
		if g.chance(80) {
			out["data"] = g.strings()
		}
	case "Service":
		out["spec"] = g.service()
	case "Pod":
		out["spec"] = g.podSpec()
		if g.chance(30) {
			out["status"] = g.some(60, map[string]func() any{
				"phase":      func() any { return pick(g, "Running", "Pending") },
				"conditions": func() any { return g.items("type", "status", "Ready", "Scheduled", "Init") },
				"podIPs":     func() any { return g.items("ip", "", "10.0.0.1", "fd00::1") },
			})
		}
	case "Deployment":
		out["apiVersion"] = "apps/v1"
		out["spec"] = g.deployment()
		if g.chance(30) {
			out["status"] = object{"replicas": g.IntN(3), "conditions": g.items("type", "status", "Available", "Progressing")}
		}
	}
	return out
}

func (g generator) strings() object {
	return g.some(40, map[string]func() any{
		"a": g.word, "b": g.word, "c": g.word, "x.io/d": g.word,
	})
}

func (g generator) word() any { return pick(g, "1", "2", "") }

// names is a list of some of the words in a random order.
func (g generator) names(words ...string) []any {
	var out []any
	for _, i := range g.Perm(len(words)) {
		if g.chance(50) {
			out = append(out, words[i])
		}
	}
	return out
}

// items is a list of objects with one of the names each.
func (g generator) items(key, value string, names ...string) []any {
	out := []any{}
	for _, name := range g.names(names...) {
		item := object{key: name}
		if value != "" && g.chance(80) {
			item[value] = pick(g, "True", "False")
		}
		out = append(out, item)
	}
	return out
}

func (g generator) service() object {
	return g.some(50, map[string]func() any{
		"selector": func() any { return g.strings() },
		"type":     func() any { return pick(g, "ClusterIP", "NodePort") },
		"ports": func() any {
			out := []any{}
			for _, i := range g.Perm(3) {
				if g.chance(50) {
					port := g.some(40, map[string]func() any{
						"name":       func() any { return pick(g, "a", "b") },
						"targetPort": func() any { return pick[any](g, 80, "web") },
						"protocol":   func() any { return pick(g, "TCP", "UDP") },
					})
					port["port"] = 80 + i
					out = append(out, port)
				}
			}
			return out
		},
		"externalIPs":           func() any { return g.names("10.1.0.1", "10.1.0.2") },
		"sessionAffinityConfig": func() any { return object{"clientIP": object{"timeoutSeconds": 10 + g.IntN(2)}} },
	})
}

func (g generator) deployment() object {
	return g.some(50, map[string]func() any{
		"replicas": func() any { return g.IntN(4) },
		"paused":   func() any { return g.chance(50) },
		"selector": func() any { return object{"matchLabels": g.strings()} },
		"strategy": func() any {
			return pick(g, object{"type": "Recreate"}, object{"rollingUpdate": object{"maxSurge": pick[any](g, 1, "25%")}}, object{})
		},
		"template": func() any {
			return object{"metadata": object{"labels": g.strings()}, "spec": g.podSpec()}
		},
	})
}

func (g generator) podSpec() object {
	return g.some(35, map[string]func() any{
		"containers":     func() any { return g.containers() },
		"initContainers": func() any { return g.containers() },
		"nodeSelector":   func() any { return g.strings() },
		"hostNetwork":    func() any { return g.chance(50) },
		"nodeName":       func() any { return pick(g, "n1", "n2", "") },
		"tolerations":    func() any { return g.items("key", "value", "a", "b") },
		"volumes": func() any {
			out := []any{}
			for _, name := range g.names("u", "v", "w") {
				source := pick(g, object{"emptyDir": object{}}, object{"configMap": object{"name": "c"}}, object{"secret": object{"secretName": "s"}})
				source["name"] = name
				out = append(out, source)
			}
			return out
		},
		"securityContext": func() any {
			return g.some(50, map[string]func() any{"runAsUser": func() any { return g.IntN(2) }, "supplementalGroups": func() any { return []any{g.IntN(3)} }})
		},
		"imagePullSecrets": func() any { return g.items("name", "", "r1", "r2") },
		"topologySpreadConstraints": func() any {
			return []any{object{"maxSkew": 1, "topologyKey": pick(g, "z", "h"), "whenUnsatisfiable": pick(g, "DoNotSchedule", "ScheduleAnyway"), "labelSelector": object{"matchLabels": g.strings()}}}
		},
		"affinity": func() any {
			return object{"nodeAffinity": object{"requiredDuringSchedulingIgnoredDuringExecution": object{"nodeSelectorTerms": []any{object{"matchExpressions": []any{object{"key": "k", "operator": "In", "values": g.names("a", "b")}}}}}}}
		},
	})
}

func (g generator) containers() []any {
	out := []any{}
	for _, name := range g.names("a", "b", "c") {
		c := g.some(40, map[string]func() any{
			"image":   func() any { return pick(g, "i:1", "i:2") },
			"command": func() any { return g.names("x", "y") },
			"stdin":   func() any { return g.chance(50) },
			"env": func() any {
				out := []any{}
				for _, name := range g.names("A", "B", "C") {
					value := pick(g, object{"value": "1"}, object{"value": ""}, object{"valueFrom": object{"fieldRef": object{"fieldPath": "metadata.name"}}})
					value["name"] = name
					out = append(out, value)
				}
				return out
			},
			"ports": func() any {
				out := []any{}
				for _, i := range g.Perm(2) {
					port := object{"containerPort": 80 + i}
					if g.chance(50) {
						port["protocol"] = pick(g, "TCP", "UDP")
					}
					out = append(out, port)
				}
				return out
			},
			"resources": func() any {
				return g.some(60, map[string]func() any{
					"limits":   func() any { return object{"cpu": pick[any](g, "500m", "0.5", 1), "memory": pick(g, "1Gi", "1024Mi")} },
					"requests": func() any { return object{"cpu": pick(g, "100m", "0.1")} },
				})
			},
			"volumeMounts": func() any { return []any{object{"name": "v", "mountPath": pick(g, "/a", "/b")}} },
			"livenessProbe": func() any {
				return object{"httpGet": object{"port": pick[any](g, 80, "web")}, "periodSeconds": 5 + g.IntN(2)}
			},
			"securityContext": func() any {
				return object{"capabilities": object{"add": g.names("A", "B")}, "privileged": g.chance(50)}
			},
		})
		c["name"] = name
		out = append(out, c)
	}
	return out
}
