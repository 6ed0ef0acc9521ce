// Package ask lets upstream's code judge single objects: decoded, defaulted, prepared and validated as
// its API server would, without a server.
package ask

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/capabilities"

	"windlass/oracle/facts"
)

// Question is one line of input.
type Question struct {
	// Op is "decode" (decode, default, encode), "create", "update" or "patch".
	Op string `json:"op"`
	// Object is the object a client sends, of any served kind.
	Object json.RawMessage `json:"object"`
	// Old is what is stored, for updates.
	Old json.RawMessage `json:"old,omitempty"`
	// Subresource is "status" and so on, for updates.
	Subresource string `json:"subresource,omitempty"`
	// Patch is applied to the object, as Kind ("json", "merge" or "strategic") says.
	Patch json.RawMessage `json:"patch,omitempty"`
	Kind  string          `json:"kind,omitempty"`
}

// Answer is one line of output: an object, a Status or the text of another error.
type Answer struct {
	Object json.RawMessage `json:"object,omitempty"`
	Status *metav1.Status  `json:"status,omitempty"`
	Error  string          `json:"error,omitempty"`
	// Warnings are what the client would be told besides, each once.
	Warnings []string `json:"warnings,omitempty"`
}

// What the server would add to a new object; fixed, so that answers can be compared.
const uid = "11111111-2222-3333-4444-555555555555"

var now = time.Date(2024, time.January, 1, 0, 0, 0, 0, time.UTC)

// maxLine is the longest question in bytes.
const maxLine = 4 << 20

// Serve answers questions line by line, in their order. A client may write many before it reads: answers
// are held back only while another question is there already.
func Serve(in io.Reader, out io.Writer) error {
	capabilities.Setup(true, 0)
	strategies, err := facts.Strategies()
	if err != nil {
		return err
	}
	lines := bufio.NewReaderSize(in, maxLine)
	answers := bufio.NewWriter(out)
	encoder := json.NewEncoder(answers)
	encoder.SetEscapeHTML(false)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			if err := encoder.Encode(answer(strategies, line)); err != nil {
				return err
			}
		}
		if err != nil {
			if flushed := answers.Flush(); flushed != nil || err == io.EOF {
				return flushed
			}
			return err
		}
		if lines.Buffered() == 0 {
			if err := answers.Flush(); err != nil {
				return err
			}
		}
	}
}

func answer(strategies facts.StrategyMap, line []byte) Answer {
	var q Question
	if err := json.Unmarshal(line, &q); err != nil {
		return Answer{Error: err.Error()}
	}
	var said warnings
	answer := judge(strategies, q, &said)
	answer.Warnings = said
	return answer
}

// warnings implements warning.Recorder as the server does: no text twice.
type warnings []string

// AddWarning implements warning.Recorder.
func (w *warnings) AddWarning(_, text string) {
	if text != "" && !slices.Contains(*w, text) {
		*w = append(*w, text)
	}
}

func judge(strategies facts.StrategyMap, q Question, said *warnings) (answer Answer) {
	defer func() {
		if r := recover(); r != nil {
			answer = Answer{Error: fmt.Sprint("panic: ", r)}
		}
	}()
	if q.Op == "patch" {
		patched, err := patch(q)
		if err != nil {
			return failed(err)
		}
		q = Question{Op: "decode", Object: patched}
	}
	object, gvk, err := decode(q.Object)
	if err != nil {
		return failed(err)
	}
	strategy, known := strategies[facts.StrategyKey{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Subresource: q.Subresource}]
	if q.Op != "decode" && !known {
		return Answer{Error: "no strategy for " + gvk.String()}
	}
	ctx := genericapirequest.WithRequestInfo(context.Background(), &genericapirequest.RequestInfo{
		APIGroup: gvk.Group, APIVersion: gvk.Version, Verb: q.Op, Subresource: q.Subresource, IsResourceRequest: true,
	})
	ctx = warning.WithWarningRecorder(ctx, said)
	accessor, err := meta.Accessor(object)
	if err != nil {
		return failed(err)
	}
	ctx = genericapirequest.WithNamespace(ctx, accessor.GetNamespace())
	switch q.Op {
	case "create":
		rest.WipeObjectMetaSystemFields(accessor)
		accessor.SetUID(uid)
		accessor.SetCreationTimestamp(metav1.NewTime(now))
		err = rest.BeforeCreate(strategy.Create, ctx, object)
	case "update":
		// As PrepareObjectForStorage does with what is accepted.
		accessor.SetSelfLink("")
		var old runtime.Object
		if old, _, err = decode(q.Old); err == nil {
			err = rest.BeforeUpdate(strategy.Update, ctx, object, old)
		}
	}
	if err != nil {
		return failed(err)
	}
	text, err := runtime.Encode(legacyscheme.Codecs.LegacyCodec(gvk.GroupVersion()), object)
	if err != nil {
		return failed(err)
	}
	return Answer{Object: text}
}

// patch applies a patch to the object in its canonical form, as the server does.
func patch(q Question) ([]byte, error) {
	object, gvk, err := decode(q.Object)
	if err != nil {
		return nil, err
	}
	current, err := runtime.Encode(legacyscheme.Codecs.LegacyCodec(gvk.GroupVersion()), object)
	if err != nil {
		return nil, err
	}
	switch q.Kind {
	case "json":
		operations, err := jsonpatch.DecodePatch(q.Patch)
		if err != nil {
			return nil, err
		}
		return operations.Apply(current)
	case "merge":
		return jsonpatch.MergePatch(current, q.Patch)
	default:
		shape, err := legacyscheme.Scheme.New(*gvk)
		if err != nil {
			return nil, err
		}
		var original, changes map[string]any
		if err := json.Unmarshal(current, &original); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(q.Patch, &changes); err != nil {
			return nil, err
		}
		merged, err := strategicpatch.StrategicMergeMapPatch(original, changes, shape)
		if err != nil {
			return nil, err
		}
		return json.Marshal(merged)
	}
}

func decode(text []byte) (runtime.Object, *schema.GroupVersionKind, error) {
	strict := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict)
	return strict.UniversalDecoder().Decode(text, nil, nil)
}

func failed(err error) Answer {
	if status, ok := err.(apierrors.APIStatus); ok {
		s := status.Status()
		return Answer{Status: &s}
	}
	return Answer{Error: err.Error()}
}
