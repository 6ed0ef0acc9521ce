package replay

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"sort"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"sigs.k8s.io/yaml"
)

// Answer is what a server said, without what no two servers have the same.
type Answer struct {
	Status  int
	Headers map[string]string
	Body    any
	// raw is the body with nothing masked, for saved values.
	raw any
}

// compared headers; of those in present only that they are there.
var (
	compared = []string{"Content-Type", "Warning", "Retry-After", "Cache-Control", "Allow", "Location",
		"Www-Authenticate", "X-Content-Type-Options"}
	present = []string{"Audit-Id", "Etag", "X-Kubernetes-Pf-Flowschema-Uid", "X-Kubernetes-Pf-Prioritylevel-Uid"}
)

// volatile fields of metadata, and addresses that are given out.
var volatile = map[string]bool{
	"uid": true, "resourceVersion": true, "creationTimestamp": true, "deletionTimestamp": true,
	"managedFields": true, "continue": true, "clusterIP": true, "clusterIPs": true, "nodePort": true,
	"healthCheckNodePort": true, "lastTransitionTime": true, "lastProbeTime": true, "selfLink": true,
}

// texts that are volatile inside of others.
var texts = []struct {
	pattern *regexp.Regexp
	mask    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "<uid>"},
	{regexp.MustCompile(`(?i)(resource ?version: )\d+`), "${1}<rv>"},
	{regexp.MustCompile(`(current: )\d+`), "${1}<rv>"},
	{regexp.MustCompile(`\((\d+)\)`), "(<n>)"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "<host>"},
}

func read(response *http.Response) (Answer, error) {
	answer := header(response)
	body, err := io.ReadAll(response.Body)
	if errors.Is(err, context.Canceled) {
		answer.Body = "still open, so far: " + string(body)
		return answer, nil
	} else if err != nil {
		return Answer{}, err
	}
	answer.raw = decode(response.Header.Get("Content-Type"), body)
	answer.Body = mask("", answer.raw)
	return answer, nil
}

func header(response *http.Response) Answer {
	answer := Answer{Status: response.StatusCode, Headers: map[string]string{}}
	for _, name := range compared {
		if values := response.Header.Values(name); len(values) > 0 {
			answer.Headers[name] = strings.Join(values, "\n")
		}
	}
	for _, name := range present {
		if response.Header.Get(name) != "" {
			answer.Headers[name] = "<present>"
		}
	}
	return answer
}

// events reads that many events of a watch, or fewer when time is up.
func events(response *http.Response, count int, limit time.Duration) (Answer, error) {
	answer := header(response)
	if response.StatusCode != http.StatusOK {
		return read(response)
	}
	timer := time.AfterFunc(limit, func() { response.Body.Close() })
	defer timer.Stop()
	var list []any
	lines := bufio.NewReader(response.Body)
	for len(list) < count {
		line, err := lines.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			list = append(list, decode("application/json", line))
		}
		if err != nil {
			break
		}
	}
	answer.raw = list
	answer.Body = mask("", any(list))
	return answer, nil
}

// decode makes a tree of a body: of JSON, YAML, protobuf or, as it is, of text.
func decode(contentType string, body []byte) any {
	var tree any
	switch kind, _, _ := strings.Cut(contentType, ";"); {
	case len(body) == 0:
		return nil
	case strings.HasSuffix(kind, "json"):
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.UseNumber()
		if err := decoder.Decode(&tree); err == nil {
			return tree
		}
	case kind == "application/yaml":
		if text, err := yaml.YAMLToJSON(body); err == nil {
			return decode("application/json", text)
		}
	case kind == "application/vnd.kubernetes.protobuf":
		object, gvk, err := legacyscheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
		if err != nil {
			return fmt.Sprintf("protobuf: %v", err)
		}
		text, err := runtime.Encode(legacyscheme.Codecs.LegacyCodec(gvk.GroupVersion()), object)
		if err != nil {
			return fmt.Sprintf("protobuf: %v", err)
		}
		return decode("application/json", text)
	}
	return string(body)
}

// mask takes out what is volatile. A value that is there stays distinguishable from one that is not.
func mask(key string, value any) any {
	if volatile[key] && value != nil && value != "" {
		if key == "clusterIP" && value == "None" {
			return value
		}
		return "<" + key + ">"
	}
	switch value := value.(type) {
	case map[string]any:
		if value["kind"] == "Table" {
			value = withoutAges(value)
		}
		out := map[string]any{}
		for k, v := range value {
			if k != "managedFields" {
				out[k] = mask(k, v)
			}
		}
		return out
	case []any:
		out := make([]any, len(value))
		for i, v := range value {
			out[i] = mask(key, v)
		}
		return out
	case string:
		for _, text := range texts {
			value = text.pattern.ReplaceAllString(value, text.mask)
		}
		return value
	default:
		return value
	}
}

// withoutAges masks the cells of columns that count from a time.
func withoutAges(table map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range table {
		out[k] = v
	}
	columns, _ := table["columnDefinitions"].([]any)
	rows, _ := table["rows"].([]any)
	var masked []any
	for _, row := range rows {
		row, _ := row.(map[string]any)
		copied := map[string]any{}
		for k, v := range row {
			copied[k] = v
		}
		cells, _ := row["cells"].([]any)
		var kept []any
		for i, cell := range cells {
			if i < len(columns) {
				if column, _ := columns[i].(map[string]any); column["name"] == "Age" || column["name"] == "Created At" {
					cell = "<age>"
				}
			}
			kept = append(kept, cell)
		}
		copied["cells"] = kept
		masked = append(masked, copied)
	}
	out["rows"] = masked
	return out
}

// Difference is a place where two answers are not the same.
type Difference struct{ At, Ours, Upstream string }

func (d Difference) String() string {
	return fmt.Sprintf("%s\n        ours:     %s\n        upstream: %s", d.At, short(d.Ours), short(d.Upstream))
}

func short(text string) string {
	const most = 600
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}

// differences of two answers, in the order of their places.
func differences(ours, upstream Answer) []Difference {
	var out []Difference
	if ours.Status != upstream.Status {
		out = append(out, Difference{"status", fmt.Sprint(ours.Status), fmt.Sprint(upstream.Status)})
	}
	for _, name := range append(append([]string{}, compared...), present...) {
		if a, b := ours.Headers[name], upstream.Headers[name]; a != b {
			out = append(out, Difference{"header " + name, a, b})
		}
	}
	return append(out, trees("body", ours.Body, upstream.Body)...)
}

func trees(at string, ours, upstream any) []Difference {
	switch a := ours.(type) {
	case map[string]any:
		if b, ok := upstream.(map[string]any); ok {
			return objects(at, a, b)
		}
	case []any:
		if b, ok := upstream.([]any); ok && len(a) == len(b) {
			var out []Difference
			for i := range a {
				out = append(out, trees(fmt.Sprintf("%s[%d]", at, i), a[i], b[i])...)
			}
			return out
		}
	}
	if a, b := print(ours), print(upstream); a != b {
		return []Difference{{at, a, b}}
	}
	return nil
}

func objects(at string, ours, upstream map[string]any) []Difference {
	keys := map[string]bool{}
	for k := range ours {
		keys[k] = true
	}
	for k := range upstream {
		keys[k] = true
	}
	var sorted []string
	for k := range keys {
		sorted = append(sorted, k)
	}
	sort.Strings(sorted)
	var out []Difference
	for _, k := range sorted {
		a, haveA := ours[k]
		b, haveB := upstream[k]
		switch place := at + "." + k; {
		case !haveA:
			out = append(out, Difference{place, "(absent)", print(b)})
		case !haveB:
			out = append(out, Difference{place, print(a), "(absent)"})
		default:
			out = append(out, trees(place, a, b)...)
		}
	}
	return out
}

func print(value any) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err.Error()
	}
	return strings.TrimSpace(out.String())
}
