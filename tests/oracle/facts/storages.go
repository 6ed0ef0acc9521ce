package facts

import (
	"context"
	"net/http"
	"time"

	"gopkg.in/go-jose/go-jose.v2/jwt"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiextscheme "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresourcedefinition"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	apiservicestore "k8s.io/kube-aggregator/pkg/registry/apiservice/etcd"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	core "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/controlplane"
	cpapi "k8s.io/kubernetes/pkg/controlplane/apiserver"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	admissionregistrationrest "k8s.io/kubernetes/pkg/registry/admissionregistration/rest"
	appsrest "k8s.io/kubernetes/pkg/registry/apps/rest"
	authenticationrest "k8s.io/kubernetes/pkg/registry/authentication/rest"
	authorizationrest "k8s.io/kubernetes/pkg/registry/authorization/rest"
	autoscalingrest "k8s.io/kubernetes/pkg/registry/autoscaling/rest"
	batchrest "k8s.io/kubernetes/pkg/registry/batch/rest"
	certificatesrest "k8s.io/kubernetes/pkg/registry/certificates/rest"
	coordinationrest "k8s.io/kubernetes/pkg/registry/coordination/rest"
	"k8s.io/kubernetes/pkg/registry/core/componentstatus"
	configmapstore "k8s.io/kubernetes/pkg/registry/core/configmap/storage"
	endpointsstore "k8s.io/kubernetes/pkg/registry/core/endpoint/storage"
	eventstore "k8s.io/kubernetes/pkg/registry/core/event/storage"
	limitrangestore "k8s.io/kubernetes/pkg/registry/core/limitrange/storage"
	namespacestore "k8s.io/kubernetes/pkg/registry/core/namespace/storage"
	nodestore "k8s.io/kubernetes/pkg/registry/core/node/storage"
	pvstore "k8s.io/kubernetes/pkg/registry/core/persistentvolume/storage"
	pvcstore "k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim/storage"
	podstore "k8s.io/kubernetes/pkg/registry/core/pod/storage"
	podtemplatestore "k8s.io/kubernetes/pkg/registry/core/podtemplate/storage"
	controllerstore "k8s.io/kubernetes/pkg/registry/core/replicationcontroller/storage"
	resourcequotastore "k8s.io/kubernetes/pkg/registry/core/resourcequota/storage"
	secretstore "k8s.io/kubernetes/pkg/registry/core/secret/storage"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	servicestore "k8s.io/kubernetes/pkg/registry/core/service/storage"
	serviceaccountstore "k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage"
	discoveryrest "k8s.io/kubernetes/pkg/registry/discovery/rest"
	eventsrest "k8s.io/kubernetes/pkg/registry/events/rest"
	flowcontrolrest "k8s.io/kubernetes/pkg/registry/flowcontrol/rest"
	networkingrest "k8s.io/kubernetes/pkg/registry/networking/rest"
	noderest "k8s.io/kubernetes/pkg/registry/node/rest"
	policyrest "k8s.io/kubernetes/pkg/registry/policy/rest"
	rbacrest "k8s.io/kubernetes/pkg/registry/rbac/rest"
	resourcerest "k8s.io/kubernetes/pkg/registry/resource/rest"
	schedulingrest "k8s.io/kubernetes/pkg/registry/scheduling/rest"
	storagerest "k8s.io/kubernetes/pkg/registry/storage/rest"
	svmrest "k8s.io/kubernetes/pkg/registry/storagemigration/rest"
)

// served is a group version with its storages by path.
type served struct {
	gv       schema.GroupVersion
	storages map[string]rest.Storage
	scheme   *runtime.Scheme
}

// getter gives every registry a storage that is nil: it is asked about, never used.
type getter struct{}

func (getter) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	return generic.RESTOptions{
		StorageConfig: (&storagebackend.Config{}).ForResource(resource),
		Decorator: func(*storagebackend.ConfigForResource, string, func(runtime.Object) (string, error), func() runtime.Object, func() runtime.Object, storage.AttrFunc, storage.IndexerFuncs, *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
			return nil, func() {}, nil
		},
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: 1,
		ResourcePrefix:          resource.Group + "/" + resource.Resource,
	}, nil
}

// noTokens makes the service account storage offer its token subresource.
type noTokens struct{}

func (noTokens) GenerateToken(context.Context, *jwt.Claims, interface{}) (string, error) {
	return "", nil
}

type noWebhooks[T any] struct{}

func (noWebhooks[T]) Get(context.Context, string, metav1.GetOptions) (T, error) {
	var none T
	return none, nil
}

type noAuthenticator struct{}

func (noAuthenticator) AuthenticateRequest(*http.Request) (*authenticator.Response, bool, error) {
	return nil, false, nil
}

// storages builds the registries of every group that is served by default.
func storages() ([]served, error) {
	config := controlplane.DefaultAPIResourceConfigSource()
	deny := authorizerfactory.NewAlwaysDenyAuthorizer()
	// Never called: some storages only want to have a client.
	client, err := kubernetes.NewForConfig(&restclient.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		return nil, err
	}
	coreStorages, err := coreStorages(client)
	if err != nil {
		return nil, err
	}
	out := []served{{schema.GroupVersion{Version: "v1"}, coreStorages, legacyscheme.Scheme}}
	providers := []cpapi.RESTStorageProvider{
		authenticationrest.RESTStorageProvider{Authenticator: noAuthenticator{}},
		authorizationrest.RESTStorageProvider{Authorizer: deny},
		autoscalingrest.RESTStorageProvider{},
		batchrest.RESTStorageProvider{},
		certificatesrest.RESTStorageProvider{Authorizer: deny},
		coordinationrest.RESTStorageProvider{},
		discoveryrest.StorageProvider{},
		networkingrest.RESTStorageProvider{},
		noderest.RESTStorageProvider{},
		policyrest.RESTStorageProvider{},
		rbacrest.RESTStorageProvider{Authorizer: deny},
		schedulingrest.RESTStorageProvider{},
		storagerest.RESTStorageProvider{},
		svmrest.RESTStorageProvider{},
		flowcontrolrest.RESTStorageProvider{},
		appsrest.StorageProvider{},
		admissionregistrationrest.RESTStorageProvider{Authorizer: deny, DiscoveryClient: client.Discovery()},
		eventsrest.RESTStorageProvider{TTL: time.Hour},
		resourcerest.RESTStorageProvider{NamespaceClient: client.CoreV1().Namespaces(), Authorizer: deny},
	}
	for _, p := range providers {
		info, err := p.NewRESTStorage(config, getter{})
		if err != nil {
			return nil, err
		}
		out = append(out, groupVersions(p.GroupName(), info)...)
	}
	aggregated, err := aggregated()
	if err != nil {
		return nil, err
	}
	return append(out, aggregated...), nil
}

func groupVersions(name string, info genericapiserver.APIGroupInfo) (out []served) {
	for _, gv := range info.PrioritizedVersions {
		if storages := info.VersionedResourcesStorageMap[gv.Version]; len(storages) > 0 {
			out = append(out, served{schema.GroupVersion{Group: name, Version: gv.Version}, storages, legacyscheme.Scheme})
		}
	}
	return out
}

// aggregated are the two groups that live in servers of their own.
func aggregated() ([]served, error) {
	crds, err := customresourcedefinition.NewREST(apiextscheme.Scheme, getter{})
	if err != nil {
		return nil, err
	}
	services := apiservicestore.NewREST(aggregatorscheme.Scheme, getter{})
	return []served{
		{
			schema.GroupVersion{Group: "apiextensions.k8s.io", Version: "v1"},
			map[string]rest.Storage{
				"customresourcedefinitions":        crds,
				"customresourcedefinitions/status": customresourcedefinition.NewStatusREST(apiextscheme.Scheme, crds),
			},
			apiextscheme.Scheme,
		},
		{
			schema.GroupVersion{Group: "apiregistration.k8s.io", Version: "v1"},
			map[string]rest.Storage{
				"apiservices":        services,
				"apiservices/status": apiservicestore.NewStatusREST(aggregatorscheme.Scheme, services),
			},
			aggregatorscheme.Scheme,
		},
	}, nil
}

// coreStorages builds the core group by hand: its provider wants allocators that talk to etcd.
func coreStorages(client *kubernetes.Clientset) (map[string]rest.Storage, error) {
	out := map[string]rest.Storage{}
	var failed error
	check := func(err error) {
		if err != nil && failed == nil {
			failed = err
		}
	}
	deny := authorizerfactory.NewAlwaysDenyAuthorizer()
	node, err := nodestore.NewStorage(getter{}, kubeletclient.KubeletClientConfig{Port: 10250, PreferredAddressTypes: []string{"InternalIP"}}, nil)
	check(err)
	if failed != nil {
		return nil, failed
	}
	pod, err := podstore.NewStorage(getter{}, node.KubeletConnectionInfo, nil, client.PolicyV1(), deny)
	check(err)
	service, serviceStatus, serviceProxy, err := servicestore.NewREST(getter{}, core.IPv4Protocol, map[core.IPFamily]ipallocator.Interface{}, nil, nil, pod.Pod, nil)
	check(err)
	secret, err := secretstore.NewREST(getter{})
	check(err)
	accounts, err := serviceaccountstore.NewREST(getter{}, noTokens{}, nil, deny, time.Hour, pod.Pod.Store, secret.Store, node.Node.Store,
		noWebhooks[*admissionregistrationv1.ValidatingWebhookConfiguration]{}, noWebhooks[*admissionregistrationv1.MutatingWebhookConfiguration]{}, false, time.Hour)
	check(err)
	controller, err := controllerstore.NewStorage(getter{})
	check(err)
	event, err := eventstore.NewREST(getter{}, 3600)
	check(err)
	quota, quotaStatus, err := resourcequotastore.NewREST(getter{})
	check(err)
	configMap, err := configmapstore.NewREST(getter{})
	check(err)
	namespace, namespaceStatus, namespaceFinalize, err := namespacestore.NewREST(getter{})
	check(err)
	template, err := podtemplatestore.NewREST(getter{})
	check(err)
	limits, err := limitrangestore.NewREST(getter{})
	check(err)
	volume, volumeStatus, err := pvstore.NewREST(getter{})
	check(err)
	claim, claimStatus, err := pvcstore.NewREST(getter{})
	check(err)
	endpoints, err := endpointsstore.NewREST(getter{})
	check(err)
	if failed != nil {
		return nil, failed
	}
	for path, s := range map[string]rest.Storage{
		"bindings": pod.LegacyBinding, "componentstatuses": componentstatus.NewStorage(nil),
		"configmaps": configMap, "endpoints": endpoints, "events": event, "limitranges": limits,
		"namespaces": namespace, "namespaces/status": namespaceStatus, "namespaces/finalize": namespaceFinalize,
		"nodes": node.Node, "nodes/status": node.Status, "nodes/proxy": node.Proxy,
		"persistentvolumes": volume, "persistentvolumes/status": volumeStatus,
		"persistentvolumeclaims": claim, "persistentvolumeclaims/status": claimStatus,
		"pods": pod.Pod, "pods/attach": pod.Attach, "pods/status": pod.Status, "pods/log": pod.Log,
		"pods/exec": pod.Exec, "pods/portforward": pod.PortForward, "pods/proxy": pod.Proxy,
		"pods/binding": pod.Binding, "pods/eviction": pod.Eviction,
		"pods/ephemeralcontainers": pod.EphemeralContainers, "pods/resize": pod.Resize,
		"podtemplates": template, "replicationcontrollers": controller.Controller,
		"replicationcontrollers/status": controller.Status, "replicationcontrollers/scale": controller.Scale,
		"resourcequotas": quota, "resourcequotas/status": quotaStatus, "secrets": secret,
		"serviceaccounts": accounts, "serviceaccounts/token": accounts.Token,
		"services": service, "services/status": serviceStatus, "services/proxy": serviceProxy,
	} {
		out[path] = s
	}
	return out, nil
}

// priority is the place of a group version in discovery. The numbers that upstream keeps in
// cmd/kube-apiserver/app/aggregator.go are not exported; the others are asked for.
func priority(group, version string) cpapi.APIServicePriority {
	gv := schema.GroupVersion{Group: group, Version: version}
	if p, ok := cpapi.DefaultGenericAPIServicePriorities()[gv]; ok {
		return p
	}
	unexported := map[string]int32{
		"apiregistration.k8s.io": 18000, "apps": 17800, "autoscaling": 17500, "batch": 17400, "networking.k8s.io": 17200,
		"policy": 17100, "storage.k8s.io": 16800, "scheduling.k8s.io": 16600, "node.k8s.io": 16300,
		"resource.k8s.io": 16200,
	}
	p := cpapi.APIServicePriority{Group: unexported[group], Version: 15}
	if group == "autoscaling" && version == "v2" {
		p.Version = 30
	}
	return p
}
