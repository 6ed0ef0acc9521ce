package facts

import (
	"strings"

	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// StrategyKey names an endpoint.
type StrategyKey struct{ Group, Version, Kind, Subresource string }

// StrategyPair holds the hooks of an endpoint.
type StrategyPair struct {
	Create rest.RESTCreateStrategy
	Update rest.RESTUpdateStrategy
	// Resets is what the field manager of the endpoint is told to ignore.
	Resets map[fieldpath.APIVersion]fieldpath.Filter
}

// StrategyMap finds the hooks of an endpoint.
type StrategyMap map[StrategyKey]StrategyPair

// Strategies finds the hooks of every endpoint with a store.
func Strategies() (StrategyMap, error) {
	groups, err := storages()
	if err != nil {
		return nil, err
	}
	out := StrategyMap{}
	for _, group := range groups {
		for path, storage := range group.storages {
			store := storeOf(storage)
			if store == nil {
				continue
			}
			plural, subresource, _ := strings.Cut(path, "/")
			gvk, _, err := kindOf(group, group.storages[plural])
			if err != nil {
				return nil, err
			}
			out[StrategyKey{gvk.Group, gvk.Version, gvk.Kind, subresource}] = StrategyPair{store.CreateStrategy, store.UpdateStrategy, filters(storage)}
		}
	}
	return out, nil
}

// filters are found as the installer finds them.
func filters(storage rest.Storage) map[fieldpath.APIVersion]fieldpath.Filter {
	if p, ok := storage.(rest.ResetFieldsFilterStrategy); ok {
		return p.GetResetFieldsFilter()
	}
	if p, ok := storage.(rest.ResetFieldsStrategy); ok {
		return fieldpath.NewExcludeFilterSetMap(p.GetResetFields())
	}
	return nil
}
