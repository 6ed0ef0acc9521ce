package facts

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"unsafe"

	apiextv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextscheme "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
)

// Resource is a served resource.
type Resource struct {
	Group              string        `json:"group,omitempty"`
	Version            string        `json:"version"`
	Plural             string        `json:"plural"`
	Singular           string        `json:"singular"`
	Kind               string        `json:"kind"`
	Namespaced         bool          `json:"namespaced,omitempty"`
	ShortNames         []string      `json:"short_names,omitempty"`
	Categories         []string      `json:"categories,omitempty"`
	Verbs              []string      `json:"verbs"`
	Subresources       []Subresource `json:"subresources,omitempty"`
	Columns            []Column      `json:"columns,omitempty"`
	SelectableFields   []string      `json:"selectable_fields,omitempty"`
	ResetFields        []string      `json:"reset_fields,omitempty"`
	Strategy           *Strategy     `json:"strategy,omitempty"`
	StorageGroup       *string       `json:"storage_group,omitempty"`
	StorageVersion     *string       `json:"storage_version,omitempty"`
	StorageVersionHash string        `json:"storage_version_hash,omitempty"`
	Stored             bool          `json:"stored,omitempty"`
	Struct             int           `json:"struct"`
}

// Subresource is a path below an object.
type Subresource struct {
	Name        string   `json:"name"`
	Group       string   `json:"group,omitempty"`
	Version     string   `json:"version"`
	Kind        string   `json:"kind"`
	Verbs       []string `json:"verbs"`
	ResetFields []string `json:"reset_fields,omitempty"`
}

// Column is a column of the Table output, without its description.
type Column struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Format   string `json:"format,omitempty"`
	Priority int32  `json:"priority,omitempty"`
}

// Strategy holds the flags of the registry's strategy.
type Strategy struct {
	UnconditionalUpdate bool `json:"unconditional_update,omitempty"`
	CreateOnUpdate      bool `json:"create_on_update,omitempty"`
	ReturnDeleted       bool `json:"return_deleted,omitempty"`
	GracefulDelete      bool `json:"graceful_delete,omitempty"`
	Generation          bool `json:"generation,omitempty"`
	Status              bool `json:"status,omitempty"`
}

func schemes() []*runtime.Scheme {
	return []*runtime.Scheme{legacyscheme.Scheme, apiextscheme.Scheme, aggregatorscheme.Scheme}
}

// columns remembers what the printers declare, by the Go type they print.
type columns map[reflect.Type][]Column

// TableHandler implements printers.PrintHandler.
func (c columns) TableHandler(definitions []metav1.TableColumnDefinition, printFunc interface{}) error {
	t := reflect.TypeOf(printFunc).In(0)
	for _, d := range definitions {
		c[t] = append(c[t], Column{d.Name, d.Type, d.Format, d.Priority})
	}
	return nil
}

var _ printers.PrintHandler = columns{}

func collectResources(s *shapes) ([]Group, []Resource, error) {
	served, err := storages()
	if err != nil {
		return nil, nil, err
	}
	printed := columns{}
	printersinternal.AddHandlers(printed)
	encoding := serverstorage.NewDefaultResourceEncodingConfig(legacyscheme.Scheme)
	versions := map[string][]string{}
	var resources []Resource
	for _, group := range served {
		versions[group.gv.Group] = append(versions[group.gv.Group], group.gv.Version)
		for _, path := range slices.Sorted(maps.Keys(group.storages)) {
			if strings.Contains(path, "/") {
				continue
			}
			r, err := describe(group, path, s, printed, encoding)
			if err != nil {
				return nil, nil, fmt.Errorf("%s %s: %w", group.gv, path, err)
			}
			resources = append(resources, r)
		}
	}
	return orderGroups(versions), resources, nil
}

func orderGroups(versions map[string][]string) []Group {
	var groups []Group
	for name, list := range versions {
		slices.SortFunc(list, func(a, b string) int {
			return int(priority(name, b).Version) - int(priority(name, a).Version)
		})
		groups = append(groups, Group{name, list})
	}
	slices.SortFunc(groups, func(a, b Group) int {
		pa, pb := priority(a.Name, a.Versions[0]).Group, priority(b.Name, b.Versions[0]).Group
		if pa != pb {
			return int(pb - pa)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return groups
}

func describe(group served, plural string, s *shapes, printed columns, encoding *serverstorage.DefaultResourceEncodingConfig) (Resource, error) {
	storage := group.storages[plural]
	gvk, t, err := kindOf(group, storage)
	if err != nil {
		return Resource{}, err
	}
	r := Resource{
		Group: group.gv.Group, Version: group.gv.Version, Plural: plural, Kind: gvk.Kind,
		Namespaced: storage.(rest.Scoper).NamespaceScoped(),
		Verbs:      verbs(storage),
		Columns:    printed[reflect.TypeOf(storage.New())],
		Struct:     s.add(t),
	}
	if p, ok := storage.(rest.SingularNameProvider); ok {
		r.Singular = p.GetSingularName()
	}
	if p, ok := storage.(rest.ShortNamesProvider); ok {
		r.ShortNames = p.ShortNames()
	}
	if p, ok := storage.(rest.CategoriesProvider); ok {
		r.Categories = p.Categories()
	}
	if store := storeOf(storage); store != nil {
		r.Stored = true
		r.Strategy = strategyOf(store, storage, group.storages[plural+"/status"] != nil)
		r.SelectableFields = selectable(group, store, gvk)
		r.ResetFields = resetFields(storage, group.gv)
		storedAs(&r, storage, encoding)
	}
	for _, path := range slices.Sorted(maps.Keys(group.storages)) {
		name, ok := strings.CutPrefix(path, plural+"/")
		if !ok {
			continue
		}
		sub := group.storages[path]
		kind, t, err := kindOf(group, sub)
		if err != nil {
			return Resource{}, err
		}
		s.add(t)
		r.Subresources = append(r.Subresources, Subresource{
			name, kind.Group, kind.Version, kind.Kind, verbs(sub), resetFields(sub, group.gv),
		})
	}
	return r, nil
}

// kindOf is the kind of a storage's body as the installer computes it.
func kindOf(group served, storage rest.Storage) (schema.GroupVersionKind, reflect.Type, error) {
	var gvk schema.GroupVersionKind
	if p, ok := storage.(rest.GroupVersionKindProvider); ok {
		gvk = p.GroupVersionKind(group.gv)
	} else {
		kinds, _, err := group.scheme.ObjectKinds(storage.New())
		if err != nil {
			return gvk, nil, err
		}
		gvk = group.gv.WithKind(kinds[0].Kind)
	}
	object, err := group.scheme.New(gvk)
	if err != nil {
		return gvk, nil, err
	}
	return gvk, reflect.TypeOf(object).Elem(), nil
}

// verbs are those discovery lists for a storage, found as the installer finds them.
func verbs(storage rest.Storage) []string {
	found := map[string]bool{}
	has := func(ok bool, verb string) {
		if ok {
			found[verb] = true
		}
	}
	_, creater := storage.(rest.Creater)
	_, named := storage.(rest.NamedCreater)
	_, getter := storage.(rest.Getter)
	_, getterWithOptions := storage.(rest.GetterWithOptions)
	_, lister := storage.(rest.Lister)
	_, deleter := storage.(rest.GracefulDeleter)
	_, collection := storage.(rest.CollectionDeleter)
	_, updater := storage.(rest.Updater)
	_, patcher := storage.(rest.Patcher)
	_, watcher := storage.(rest.Watcher)
	has(creater || named, "create")
	has(getter || getterWithOptions, "get")
	has(lister, "list")
	has(deleter, "delete")
	has(collection, "deletecollection")
	has(updater, "update")
	has(patcher, "patch")
	has(watcher, "watch")
	if connecter, ok := storage.(rest.Connecter); ok {
		byMethod := map[string]string{
			http.MethodDelete: "delete", http.MethodGet: "get", http.MethodPatch: "patch",
			http.MethodPost: "create", http.MethodPut: "update",
		}
		for _, method := range connecter.ConnectMethods() {
			if verb := byMethod[method]; verb != "" {
				found[verb] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// storeOf finds the registry.Store inside a storage, also behind fields that are not exported.
func storeOf(storage rest.Storage) *registry.Store {
	return searchStore(reflect.ValueOf(storage), 0)
}

// searchDepth is how many wrappers there may be around a store.
const searchDepth = 4

func searchStore(v reflect.Value, depth int) *registry.Store {
	if depth > searchDepth || !v.IsValid() {
		return nil
	}
	if store, ok := v.Interface().(*registry.Store); ok {
		return store
	}
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return nil
		}
		v = v.Elem()
		if store, ok := v.Interface().(*registry.Store); ok {
			return store
		}
	}
	if v.Kind() != reflect.Struct {
		return nil
	}
	if !v.CanAddr() {
		addressable := reflect.New(v.Type()).Elem()
		addressable.Set(v)
		v = addressable
	}
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if name != "Store" && name != "store" && !v.Type().Field(i).Anonymous {
			continue
		}
		f := v.Field(i)
		f = reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem()
		if store := searchStore(f, depth+1); store != nil {
			return store
		}
	}
	return nil
}

func strategyOf(store *registry.Store, storage rest.Storage, status bool) *Strategy {
	ctx := context.Background()
	out := &Strategy{ReturnDeleted: store.ReturnDeletedObject, Status: status}
	if u := store.UpdateStrategy; u != nil {
		out.UnconditionalUpdate = u.AllowUnconditionalUpdate(ctx)
		out.CreateOnUpdate = u.AllowCreateOnUpdate(ctx)
	}
	if d := store.DeleteStrategy; d != nil {
		_, out.GracefulDelete = d.(rest.RESTGracefulDeleteStrategy)
	}
	out.Generation = startsAtOne(ctx, store)
	return out
}

// startsAtOne asks the create strategy what it makes of an empty object. Some strategies fail on an
// empty object, but only after they have set the generation.
func startsAtOne(ctx context.Context, store *registry.Store) (yes bool) {
	if store.CreateStrategy == nil {
		return false
	}
	object := store.NewFunc()
	defer func() {
		_ = recover()
		accessor, err := meta.Accessor(object)
		yes = err == nil && accessor.GetGeneration() == 1
	}()
	info := &genericapirequest.RequestInfo{Verb: "create"}
	store.CreateStrategy.PrepareForCreate(genericapirequest.WithRequestInfo(ctx, info), object)
	return false
}

// selectable are the fields the store indexes objects by and the scheme accepts in a selector.
func selectable(group served, store *registry.Store, gvk schema.GroupVersionKind) (out []string) {
	defer func() {
		if recover() != nil {
			out = nil
		}
	}()
	predicate := store.PredicateFunc(labels.Everything(), fields.Everything())
	_, set, err := predicate.GetAttrs(store.NewFunc())
	if err != nil {
		return nil
	}
	names := slices.Sorted(maps.Keys(set))
	// events.k8s.io calls the object and the component by other names.
	if group.gv.Group == "events.k8s.io" {
		for _, name := range names {
			if rest, ok := strings.CutPrefix(name, "involvedObject."); ok {
				names = append(names, "regarding."+rest)
			}
		}
		names = append(names, "reportingController")
	}
	for _, name := range names {
		if strings.HasPrefix(name, "metadata.name") {
			continue
		}
		if _, _, err := group.scheme.ConvertFieldLabel(gvk, name, "x"); err == nil {
			out = append(out, name)
		} else if _, _, err := group.scheme.ConvertFieldLabel(gvk, name, "true"); err == nil {
			out = append(out, name)
		}
	}
	return out
}

// resetFields are the paths a strategy ignores in what clients send.
func resetFields(storage rest.Storage, gv schema.GroupVersion) []string {
	p, ok := storage.(rest.ResetFieldsStrategy)
	if !ok {
		return nil
	}
	for version, set := range p.GetResetFields() {
		if !strings.HasSuffix(string(version), gv.Version) {
			continue
		}
		var out []string
		for _, line := range strings.Split(set.String(), "\n") {
			if line = strings.TrimPrefix(strings.TrimSpace(line), "."); line != "" {
				out = append(out, line)
			}
		}
		slices.Sort(out)
		return out
	}
	return nil
}

func storedAs(r *Resource, storage rest.Storage, encoding *serverstorage.DefaultResourceEncodingConfig) {
	group := r.Group
	if r.Plural == "events" {
		group = ""
	}
	version := "v1"
	if r.Group != apiextv1.GroupName && r.Group != "apiregistration.k8s.io" {
		gv, err := encoding.StorageEncodingFor(schema.GroupResource{Group: group, Resource: r.Plural})
		if err == nil {
			version = gv.Version
		}
	}
	if p, ok := storage.(rest.StorageVersionProvider); ok && p.StorageVersion() != nil {
		if gvs, _ := p.StorageVersion().KindForGroupVersionKinds([]schema.GroupVersionKind{{Group: group, Version: version, Kind: r.Kind}}); gvs.Version != "" {
			version = gvs.Version
		}
	}
	if group != r.Group {
		r.StorageGroup = &group
	}
	if version != r.Version {
		r.StorageVersion = &version
	}
	r.StorageVersionHash = discovery.StorageVersionHash(group, version, r.Kind)
}
