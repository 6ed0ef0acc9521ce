package facts

import (
	"encoding/json"
	"maps"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

// RBAC is upstream's bootstrap policy as JSON objects.
type RBAC struct {
	ClusterRoles        []json.RawMessage
	ClusterRoleBindings []json.RawMessage
	Roles               []json.RawMessage
	RoleBindings        []json.RawMessage
}

func collectRBAC() (RBAC, error) {
	var out RBAC
	var failed error
	add := func(list *[]json.RawMessage, object any) {
		text, err := json.Marshal(object)
		if err != nil {
			failed = err
		}
		*list = append(*list, text)
	}
	meta := func(kind string) metav1.TypeMeta {
		return metav1.TypeMeta{Kind: kind, APIVersion: rbacv1.SchemeGroupVersion.String()}
	}
	for _, r := range append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...) {
		r.TypeMeta = meta("ClusterRole")
		add(&out.ClusterRoles, r)
	}
	for _, b := range append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...) {
		b.TypeMeta = meta("ClusterRoleBinding")
		add(&out.ClusterRoleBindings, b)
	}
	roles := bootstrappolicy.NamespaceRoles()
	for _, namespace := range slices.Sorted(maps.Keys(roles)) {
		for _, r := range roles[namespace] {
			r.TypeMeta = meta("Role")
			add(&out.Roles, r)
		}
	}
	bindings := bootstrappolicy.NamespaceRoleBindings()
	for _, namespace := range slices.Sorted(maps.Keys(bindings)) {
		for _, b := range bindings[namespace] {
			b.TypeMeta = meta("RoleBinding")
			add(&out.RoleBindings, b)
		}
	}
	return out, failed
}
