// Package fake is an API server of NFSExports in memory, for tests. It does what the
// programs rely on: names are unique, UIDs and resource versions are assigned, stale
// updates conflict, the generation grows with the spec, status is a subresource, an
// object with finalizers stays until they are gone, and the immutable fields of the
// CRD are.
package fake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/exports"
)

// Client implements exports.Interface.
type Client struct {
	// Before is called before each request with its verb; an error is its answer.
	// Set it before the client is used.
	Before func(verb, name string) error

	mu       sync.Mutex
	objects  map[string]*v1alpha1.NFSExport
	version  int
	watchers []*watch.RaceFreeFakeWatcher
}

var _ exports.Interface = &Client{}

// New returns a client that knows objects.
func New(objects ...*v1alpha1.NFSExport) *Client {
	c := &Client{objects: map[string]*v1alpha1.NFSExport{}}
	for _, object := range objects {
		if _, err := c.Create(context.Background(), object, metav1.CreateOptions{}); err != nil {
			panic(err) // the test's own mistake
		}
		if _, err := c.UpdateStatus(context.Background(), object, metav1.UpdateOptions{}); err != nil {
			panic(err)
		}
	}
	return c
}

func (c *Client) begin(ctx context.Context, verb, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.Before != nil {
		return c.Before(verb, name)
	}
	return nil
}

// store keeps a new state of an object and tells the watchers. c.mu is held.
func (c *Client) store(object *v1alpha1.NFSExport, event watch.EventType) *v1alpha1.NFSExport {
	c.version++
	object.ResourceVersion = strconv.Itoa(c.version)
	if event == watch.Deleted {
		delete(c.objects, object.Name)
	} else {
		c.objects[object.Name] = object
	}
	c.watchers = slices.DeleteFunc(c.watchers, (*watch.RaceFreeFakeWatcher).IsStopped)
	for _, w := range c.watchers {
		w.Action(event, object.DeepCopy())
	}
	return object.DeepCopy()
}

// Create implements exports.Interface.
func (c *Client) Create(ctx context.Context, export *v1alpha1.NFSExport, _ metav1.CreateOptions) (*v1alpha1.NFSExport, error) {
	if err := c.begin(ctx, "create", export.Name); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, found := c.objects[export.Name]; found {
		return nil, apierrors.NewAlreadyExists(v1alpha1.Resource.GroupResource(), export.Name)
	}
	created := export.DeepCopy()
	created.Status = v1alpha1.NFSExportStatus{}
	created.Generation = 1
	if created.UID == "" {
		created.UID = types.UID(fmt.Sprintf("uid-%s-%d", export.Name, c.version))
	}
	created.CreationTimestamp = metav1.Now()
	return c.store(created, watch.Added), nil
}

// Update implements exports.Interface.
func (c *Client) Update(ctx context.Context, export *v1alpha1.NFSExport, _ metav1.UpdateOptions) (*v1alpha1.NFSExport, error) {
	if err := c.begin(ctx, "update", export.Name); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	current, err := c.current(export)
	if err != nil {
		return nil, err
	}
	if err := immutable(current, export); err != nil {
		return nil, err
	}
	updated := export.DeepCopy()
	updated.Status = current.Status
	updated.UID, updated.CreationTimestamp, updated.DeletionTimestamp = current.UID, current.CreationTimestamp, current.DeletionTimestamp
	updated.Generation = current.Generation
	if !apiequality.Semantic.DeepEqual(current.Spec, updated.Spec) {
		updated.Generation++
	}
	if updated.DeletionTimestamp != nil && len(updated.Finalizers) == 0 {
		return c.store(updated, watch.Deleted), nil
	}
	return c.store(updated, watch.Modified), nil
}

// UpdateStatus implements exports.Interface.
func (c *Client) UpdateStatus(ctx context.Context, export *v1alpha1.NFSExport, _ metav1.UpdateOptions) (*v1alpha1.NFSExport, error) {
	if err := c.begin(ctx, "update status", export.Name); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	current, err := c.current(export)
	if err != nil {
		return nil, err
	}
	updated := current.DeepCopy()
	export.Status.DeepCopyInto(&updated.Status)
	return c.store(updated, watch.Modified), nil
}

func (c *Client) current(export *v1alpha1.NFSExport) (*v1alpha1.NFSExport, error) {
	current, found := c.objects[export.Name]
	if !found {
		return nil, notFound(export.Name)
	}
	if export.ResourceVersion != "" && export.ResourceVersion != current.ResourceVersion {
		return nil, apierrors.NewConflict(v1alpha1.Resource.GroupResource(), export.Name, errors.New("the object has been modified"))
	}
	return current, nil
}

// immutable are the rules of the CRD: what is set stays.
func immutable(from, to *v1alpha1.NFSExport) error {
	var broken []string
	rule := func(name string, set, same bool) {
		if set && !same {
			broken = append(broken, name)
		}
	}
	rule("resourceDefinition.name", true, from.Spec.ResourceDefinition.Name == to.Spec.ResourceDefinition.Name)
	rule("resourceDefinition.uuid", from.Spec.ResourceDefinition.UUID != "", from.Spec.ResourceDefinition.UUID == to.Spec.ResourceDefinition.UUID)
	rule("exportID", from.Spec.ExportID != 0, from.Spec.ExportID == to.Spec.ExportID)
	rule("fsid", from.Spec.FSID != "", from.Spec.FSID == to.Spec.FSID)
	rule("serverScope", true, from.Spec.ServerScope == to.Spec.ServerScope)
	rule("fsType", true, from.Spec.FSType == to.Spec.FSType)
	rule("service", from.Spec.Service != nil, apiequality.Semantic.DeepEqual(from.Spec.Service, to.Spec.Service))
	if len(broken) > 0 {
		return apierrors.NewInvalid(v1alpha1.GroupVersion.WithKind("NFSExport").GroupKind(), from.Name+": immutable: "+strings.Join(broken, ", "), nil)
	}
	return nil
}

// Delete implements exports.Interface.
func (c *Client) Delete(ctx context.Context, name string, options metav1.DeleteOptions) error {
	if err := c.begin(ctx, "delete", name); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	current, found := c.objects[name]
	if !found {
		return notFound(name)
	}
	if p := options.Preconditions; p != nil && p.UID != nil && *p.UID != current.UID {
		return apierrors.NewConflict(v1alpha1.Resource.GroupResource(), name, errors.New("the UID in the precondition does not match"))
	}
	deleted := current.DeepCopy()
	if len(deleted.Finalizers) == 0 {
		c.store(deleted, watch.Deleted)
		return nil
	}
	if deleted.DeletionTimestamp == nil {
		now := metav1.Now()
		deleted.DeletionTimestamp = &now
		c.store(deleted, watch.Modified)
	}
	return nil
}

// Get implements exports.Interface.
func (c *Client) Get(ctx context.Context, name string, _ metav1.GetOptions) (*v1alpha1.NFSExport, error) {
	if err := c.begin(ctx, "get", name); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	current, found := c.objects[name]
	if !found {
		return nil, notFound(name)
	}
	return current.DeepCopy(), nil
}

// List implements exports.Interface.
func (c *Client) List(ctx context.Context, _ metav1.ListOptions) (*v1alpha1.NFSExportList, error) {
	if err := c.begin(ctx, "list", ""); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.list(), nil
}

func (c *Client) list() *v1alpha1.NFSExportList {
	list := &v1alpha1.NFSExportList{}
	list.ResourceVersion = strconv.Itoa(c.version)
	for _, object := range c.objects {
		list.Items = append(list.Items, *object.DeepCopy())
	}
	slices.SortFunc(list.Items, func(a, b v1alpha1.NFSExport) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Watch implements exports.Interface. A reflector that asks for the initial events
// gets them, with the bookmark that ends them; one that has listed gets what changed
// since only if nothing did in between, which is enough for tests.
func (c *Client) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	if err := c.begin(ctx, "watch", ""); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w := watch.NewRaceFreeFake()
	if options.SendInitialEvents != nil && *options.SendInitialEvents {
		list := c.list()
		for i := range list.Items {
			w.Add(&list.Items[i])
		}
		bookmark := &v1alpha1.NFSExport{}
		bookmark.ResourceVersion = list.ResourceVersion
		bookmark.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
		w.Action(watch.Bookmark, bookmark)
	} else if options.ResourceVersion != "" && options.ResourceVersion != strconv.Itoa(c.version) {
		return nil, apierrors.NewResourceExpired("too old resource version") // the reflector lists again
	}
	c.watchers = append(c.watchers, w)
	return w, nil
}

func notFound(name string) error {
	return apierrors.NewNotFound(v1alpha1.Resource.GroupResource(), name)
}
