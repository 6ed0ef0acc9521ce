package ask

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/generated/openapi"
	"sigs.k8s.io/yaml"

	"windlass/oracle/facts"
)

// Step is one write as the field manager of an endpoint sees it.
type Step struct {
	// Verb is "apply" or "update" (which is also a create or a patch).
	Verb        string          `json:"verb"`
	Object      json.RawMessage `json:"object"`
	Manager     string          `json:"manager,omitempty"`
	Subresource string          `json:"subresource,omitempty"`
	Force       bool            `json:"force,omitempty"`
}

// firstStep is when the first step of a chain happens; each next one is a second later. Upstream reads
// the clock, so times are set after every step.
var firstStep = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// madeUID is what an object has after it was created.
const madeUID = "11111111-2222-3333-4444-555555555555"

// typeConverter is built as the server builds it, from the published schemas.
var typeConverter = sync.OnceValues(func() (managedfields.TypeConverter, error) {
	config := genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, openapinamer.NewDefinitionNamer(legacyscheme.Scheme))
	var names []string
	for name := range openapi.GetOpenAPIDefinitions(func(p string) spec.Ref { return spec.MustCreateRef(common.EscapeJsonPointer(p)) }) {
		names = append(names, name)
	}
	models, err := builder3.BuildOpenAPIDefinitionsForResources(config, names...)
	if err != nil {
		return nil, err
	}
	return managedfields.NewTypeConverter(models, false)
})

// managed runs a chain of writes; each works on what the last one that succeeded left.
func managed(strategies facts.StrategyMap, steps []Step) Answer {
	out := Answer{}
	var live runtime.Object
	for i, step := range steps {
		answer, next, err := write(strategies, live, step, firstStep.Add(time.Duration(i)*time.Second))
		if err != nil {
			answer = failed(err)
		} else {
			live = next
		}
		out.Steps = append(out.Steps, answer)
	}
	return out
}

func write(strategies facts.StrategyMap, live runtime.Object, step Step, now time.Time) (Answer, runtime.Object, error) {
	gvk, err := kindOf(step.Object, live)
	if err != nil {
		return Answer{}, nil, err
	}
	manager, err := fieldManager(strategies, gvk, step.Subresource)
	if err != nil {
		return Answer{}, nil, err
	}
	if live == nil {
		if live, err = legacyscheme.Scheme.New(gvk); err != nil {
			return Answer{}, nil, err
		}
	}
	var next runtime.Object
	if step.Verb == "apply" {
		patch := &unstructured.Unstructured{Object: map[string]any{}}
		if err := yaml.Unmarshal(step.Object, &patch.Object); err != nil {
			return Answer{}, nil, err
		}
		next, err = manager.Apply(live.DeepCopyObject(), patch, step.Manager, step.Force)
	} else {
		if next, _, err = decode(step.Object); err == nil {
			next = manager.UpdateNoErrors(live.DeepCopyObject(), next, step.Manager)
		}
	}
	if err != nil {
		return Answer{}, nil, err
	}
	if err := settle(next, now); err != nil {
		return Answer{}, nil, err
	}
	text, err := runtime.Encode(legacyscheme.Codecs.LegacyCodec(gvk.GroupVersion()), next)
	return Answer{Object: text}, next, err
}

// settle gives the object a uid, and the entries of this step their time.
func settle(object runtime.Object, now time.Time) error {
	accessor, err := meta.Accessor(object)
	if err != nil {
		return err
	}
	accessor.SetUID(madeUID)
	entries := accessor.GetManagedFields()
	for i := range entries {
		if entries[i].Time != nil && time.Since(entries[i].Time.Time) < time.Hour {
			entries[i].Time = &metav1.Time{Time: now}
		}
	}
	accessor.SetManagedFields(entries)
	return nil
}

// kindOf is the kind of the chain: what the first body says.
func kindOf(text []byte, live runtime.Object) (schema.GroupVersionKind, error) {
	if live != nil {
		gvks, _, err := legacyscheme.Scheme.ObjectKinds(live)
		if err != nil {
			return schema.GroupVersionKind{}, err
		}
		gvk := gvks[0]
		gvk.Version = "v1"
		return gvk, nil
	}
	var about metav1.TypeMeta
	err := json.Unmarshal(text, &about)
	return about.GroupVersionKind(), err
}

func fieldManager(strategies facts.StrategyMap, gvk schema.GroupVersionKind, subresource string) (*managedfields.FieldManager, error) {
	converter, err := typeConverter()
	if err != nil {
		return nil, err
	}
	strategy, ok := strategies[facts.StrategyKey{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Subresource: subresource}]
	if !ok {
		return nil, fmt.Errorf("no endpoint for %s %s", gvk, subresource)
	}
	scheme := legacyscheme.Scheme
	hub := schema.GroupVersion{Group: gvk.Group, Version: runtime.APIVersionInternal}
	return managedfields.NewDefaultFieldManager(converter, runtime.UnsafeObjectConvertor(scheme), scheme, scheme, gvk, hub, subresource, strategy.Resets)
}
