// Package exports is the typed client, informer and lister of NFSExport
// objects. It talks to the API server; what to write is its callers' business.
package exports

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/listers"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
)

// Client reads and writes NFSExports.
type Client = gentype.ClientWithList[*v1alpha1.NFSExport, *v1alpha1.NFSExportList]

// Interface is what our programs use of Client; the fake package implements it
// in memory.
type Interface interface {
	Create(ctx context.Context, export *v1alpha1.NFSExport, options metav1.CreateOptions) (*v1alpha1.NFSExport, error)
	Update(ctx context.Context, export *v1alpha1.NFSExport, options metav1.UpdateOptions) (*v1alpha1.NFSExport, error)
	UpdateStatus(ctx context.Context, export *v1alpha1.NFSExport, options metav1.UpdateOptions) (*v1alpha1.NFSExport, error)
	Delete(ctx context.Context, name string, options metav1.DeleteOptions) error
	Get(ctx context.Context, name string, options metav1.GetOptions) (*v1alpha1.NFSExport, error)
	List(ctx context.Context, options metav1.ListOptions) (*v1alpha1.NFSExportList, error)
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
}

var _ Interface = &Client{}

// Lister reads NFSExports from an informer's cache. The objects are shared:
// copy before changing one.
type Lister = listers.ResourceIndexer[*v1alpha1.NFSExport]

// Scheme knows the NFSExport types, for event recorders and tests.
var Scheme = newScheme()

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		panic(fmt.Sprintf("register NFSExport types: %v", err)) // only a programming error can do this
	}
	return scheme
}

// New returns a client for the API server of config, which is not modified.
func New(config *rest.Config) (*Client, error) {
	own := rest.CopyConfig(config)
	own.APIPath = "/apis"
	own.GroupVersion = &v1alpha1.GroupVersion
	own.ContentType = runtime.ContentTypeJSON // custom resources are not served as protobuf
	own.AcceptContentTypes = runtime.ContentTypeJSON
	own.NegotiatedSerializer = serializer.NewCodecFactory(Scheme).WithoutConversion()
	client, err := rest.RESTClientFor(own)
	if err != nil {
		return nil, fmt.Errorf("create client of NFSExports: %w", err)
	}
	return gentype.NewClientWithList(v1alpha1.Resource.Resource, client, runtime.NewParameterCodec(Scheme), "",
		func() *v1alpha1.NFSExport { return &v1alpha1.NFSExport{} },
		func() *v1alpha1.NFSExportList { return &v1alpha1.NFSExportList{} }), nil
}

// NewInformer returns an informer of all NFSExports and a lister on its cache.
// The caller runs the informer and waits for its first sync.
func NewInformer(client Interface, resync time.Duration) (cache.SharedIndexInformer, Lister) {
	informer := cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return client.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, options)
		},
	}, &v1alpha1.NFSExport{}, resync, cache.Indexers{})
	return informer, NewLister(informer.GetIndexer())
}

// NewLister returns a lister on an informer's store.
func NewLister(indexer cache.Indexer) Lister {
	return listers.New[*v1alpha1.NFSExport](indexer, v1alpha1.Resource.GroupResource())
}
