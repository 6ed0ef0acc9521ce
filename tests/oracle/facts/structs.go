package facts

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/generated/openapi"
)

// Kind names a kind and the index of its struct.
type Kind struct {
	Group   string `json:"g,omitempty"`
	Version string `json:"v"`
	Kind    string `json:"k"`
	Struct  int    `json:"s"`
}

// Struct is a struct with its fields in order. Field names are short: there are thousands of them.
type Struct struct {
	Name    string `json:"n"`
	Package string `json:"p"`
	OpenAPI string `json:"o,omitempty"`
	// Atomic: apply replaces it as a whole, wherever it stands.
	Atomic bool    `json:"a,omitempty"`
	Fields []Field `json:"f,omitempty"`
}

// Field is a field of a struct; see schema.rs of the api crate for the letters.
type Field struct {
	Name     string          `json:"j,omitempty"`
	Type     string          `json:"t"`
	GoType   string          `json:"g,omitempty"`
	Flags    string          `json:"x,omitempty"`
	Proto    int             `json:"b,omitempty"`
	MergeKey string          `json:"k,omitempty"`
	ListKeys []string        `json:"lk,omitempty"`
	Enum     []string        `json:"en,omitempty"`
	Default  json.RawMessage `json:"d,omitempty"`
}

// special are the types with a JSON form of their own.
var special = map[string]string{
	"k8s.io/apimachinery/pkg/util/intstr.IntOrString":                                       "I",
	"k8s.io/apimachinery/pkg/api/resource.Quantity":                                         "Q",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Time":                                             "T",
	"k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime":                                        "M",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Duration":                                         "D",
	"k8s.io/apimachinery/pkg/runtime.RawExtension":                                          "R",
	"k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1":                                         "F",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSON":                         "A",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrArray":       "A",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrBool":        "A",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrStringArray": "A",
}

type shapes struct {
	structs []Struct
	index   map[reflect.Type]int
	defs    map[string]common.OpenAPIDefinition
	schemes []*runtime.Scheme
}

func newShapes() *shapes {
	return &shapes{
		index:   map[reflect.Type]int{},
		defs:    openapi.GetOpenAPIDefinitions(func(p string) spec.Ref { return spec.MustCreateRef(p) }),
		schemes: schemes(),
	}
}

// kinds are all kinds of the served group versions, meta kinds only once.
func (s *shapes) kinds(groups []Group) []Kind {
	served := map[schema.GroupVersion]bool{{Group: "meta.k8s.io", Version: "v1"}: true}
	for _, g := range groups {
		for _, v := range g.Versions {
			served[schema.GroupVersion{Group: g.Name, Version: v}] = true
		}
	}
	found := map[schema.GroupVersionKind]reflect.Type{}
	for _, scheme := range s.schemes {
		for gvk, t := range scheme.AllKnownTypes() {
			isMeta := strings.HasSuffix(t.PkgPath(), "apis/meta/v1")
			core := gvk.Group == "" && gvk.Version == "v1"
			if t.Kind() != reflect.Struct || !served[gvk.GroupVersion()] || (isMeta && !core && gvk.Group != "meta.k8s.io") {
				continue
			}
			if strings.HasPrefix(gvk.Kind, "__") {
				continue
			}
			found[gvk] = t
		}
	}
	for name, object := range map[string]any{
		"Table": metav1.Table{}, "PartialObjectMetadata": metav1.PartialObjectMetadata{},
		"PartialObjectMetadataList": metav1.PartialObjectMetadataList{}, "Status": metav1.Status{},
		"DeleteOptions": metav1.DeleteOptions{},
	} {
		found[schema.GroupVersionKind{Group: "meta.k8s.io", Version: "v1", Kind: name}] = reflect.TypeOf(object)
	}
	gvks := make([]schema.GroupVersionKind, 0, len(found))
	for gvk := range found {
		gvks = append(gvks, gvk)
	}
	slices.SortFunc(gvks, func(a, b schema.GroupVersionKind) int {
		return strings.Compare(a.Group+"/"+a.Version+"/"+a.Kind, b.Group+"/"+b.Version+"/"+b.Kind)
	})
	var out []Kind
	for _, gvk := range gvks {
		out = append(out, Kind{gvk.Group, gvk.Version, gvk.Kind, s.add(found[gvk])})
	}
	return out
}

// add describes a struct type and everything below it; the index of its row is returned.
func (s *shapes) add(t reflect.Type) int {
	if i, ok := s.index[t]; ok {
		return i
	}
	i := len(s.structs)
	s.index[t] = i
	name := t.PkgPath() + "." + t.Name()
	s.structs = append(s.structs, Struct{Name: t.Name(), Package: lastElement(t.PkgPath())})
	def, known := s.definition(t)
	if known {
		s.structs[i].OpenAPI = util.ToRESTFriendlyName(name)
		s.structs[i].Atomic = def.Extensions["x-kubernetes-map-type"] == "atomic"
	}
	fields := make([]Field, 0, t.NumField())
	for n := range t.NumField() {
		if f, ok := s.field(t.Field(n), def); ok {
			fields = append(fields, f)
		}
	}
	s.structs[i].Fields = fields
	return i
}

func (s *shapes) definition(t reflect.Type) (spec.Schema, bool) {
	name := t.PkgPath() + "." + t.Name()
	if def, ok := s.defs[name]; ok {
		return def.Schema, true
	}
	def, ok := s.defs[util.ToRESTFriendlyName(name)]
	return def.Schema, ok
}

func (s *shapes) field(f reflect.StructField, def spec.Schema) (Field, bool) {
	tag := strings.Split(f.Tag.Get("json"), ",")
	if tag[0] == "-" || !f.IsExported() {
		return Field{}, false
	}
	var flags strings.Builder
	flag := func(on bool, letter string) {
		if on {
			flags.WriteString(letter)
		}
	}
	inline := slices.Contains(tag, "inline") || (f.Anonymous && tag[0] == "")
	t := f.Type
	flag(t.Kind() == reflect.Pointer, "p")
	flag(slices.Contains(tag[1:], "omitempty"), "e")
	flag(slices.Contains(tag[1:], "omitzero"), "z")
	flag(inline, "i")
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	out := Field{Name: tag[0], Type: s.notation(t), Proto: protoNumber(f.Tag.Get("protobuf"))}
	if !inline && out.Name == "" {
		out.Name = f.Name
	}
	out.GoType = goType(t)
	strategy := strings.Split(f.Tag.Get("patchStrategy"), ",")
	flag(slices.Contains(strategy, "merge"), "m")
	flag(slices.Contains(strategy, "replace"), "x")
	flag(slices.Contains(strategy, "retainKeys"), "k")
	out.MergeKey = f.Tag.Get("patchMergeKey")
	if p, ok := def.Properties[out.Name]; ok && !inline {
		flag(slices.Contains(def.Required, out.Name), "r")
		flag(p.Extensions["x-kubernetes-map-type"] == "atomic", "a")
		flag(p.Extensions["x-kubernetes-list-type"] == "set", "s")
		flag(p.Extensions["x-kubernetes-list-type"] == "map", "l")
		if keys, ok := p.Extensions["x-kubernetes-list-map-keys"].([]any); ok {
			for _, k := range keys {
				out.ListKeys = append(out.ListKeys, k.(string))
			}
		}
		for _, value := range p.Enum {
			out.Enum = append(out.Enum, value.(string))
		}
		out.Default = staticDefault(p.Default, f.Type.Kind() == reflect.Pointer)
	}
	out.Flags = flags.String()
	return out, true
}

// staticDefault leaves out what the generator writes for every required value: its zero.
func staticDefault(value any, pointer bool) json.RawMessage {
	if value == nil {
		return nil
	}
	v := reflect.ValueOf(value)
	switch v.Kind() {
	case reflect.Map, reflect.Slice:
		if v.Len() == 0 {
			return nil
		}
	default:
		if v.IsZero() && !pointer {
			return nil
		}
	}
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return text
}

// notation writes a type in the letters of schema.rs.
func (s *shapes) notation(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if letter, ok := special[t.PkgPath()+"."+t.Name()]; ok {
		return letter
	}
	switch t.Kind() {
	case reflect.String:
		return "s"
	case reflect.Bool:
		return "b"
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Uint8, reflect.Uint16:
		return "i"
	case reflect.Int, reflect.Int64, reflect.Uint32, reflect.Uint64, reflect.Uint:
		return "l"
	case reflect.Float32, reflect.Float64:
		return "f"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "y"
		}
		return "[" + s.notation(t.Elem())
	case reflect.Map:
		return "{" + s.notation(t.Elem())
	case reflect.Struct:
		return "#" + strconv.Itoa(s.add(t))
	case reflect.Interface:
		return "A"
	default:
		panic("no notation for " + t.String())
	}
}

// goType is the name Go's decoder prints, where it does not follow from the notation.
func goType(t reflect.Type) string {
	named := t.Name() != "" && t.PkgPath() != ""
	if _, ok := special[t.PkgPath()+"."+t.Name()]; ok || t.Kind() == reflect.Struct {
		return ""
	}
	switch {
	case named:
		return t.String()
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 && goType(t.Elem()) != "":
		return "[]" + goType(t.Elem())
	case t.Kind() == reflect.Map && (goType(t.Elem()) != "" || goType(t.Key()) != ""):
		return t.String()
	default:
		return ""
	}
}

func protoNumber(tag string) int {
	parts := strings.Split(tag, ",")
	if len(parts) < 2 {
		return 0
	}
	n, err := strconv.Atoi(parts[1])
	if err != nil {
		return 0
	}
	return n
}

func lastElement(path string) string {
	return path[strings.LastIndexByte(path, '/')+1:]
}
