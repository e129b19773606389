package linstor

import (
	"maps"
	"net/http"
	"slices"
)

func (c *Controller) getControllerProps(*request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return http.StatusOK, clone(c.props)
}

func (c *Controller) modifyControllerProps(q *request) Replies {
	var in propsModify
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if rs := checkProps(objController, in.OverrideProps); rs != nil {
		return rs
	}
	in.modify(c.props)
	return Replies{success(codeModified, objController|opModify, "Controller properties modified.")}
}

func (c *Controller) deleteControllerProp(q *request) Replies {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.props, q.PathValue("key"))
	return Replies{success(codeDeleted, objController|opDelete, "Successfully deleted property '%s'", q.PathValue("key"))}
}

func (c *Controller) listKeyValues(*request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []keyValueJSON{}
	for _, name := range slices.Sorted(maps.Keys(c.keyValues)) {
		out = append(out, keyValueJSON{Name: name, Props: clone(c.keyValues[name])})
	}
	return http.StatusOK, out
}

func (c *Controller) getKeyValues(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := q.PathValue("store")
	props, ok := c.keyValues[name]
	if !ok {
		return http.StatusNotFound, fail(failNotFoundKeyValueStore, objKeyValue, "Key value store '%s' not found.", name)
	}
	return http.StatusOK, []keyValueJSON{{Name: name, Props: clone(props)}}
}

// modifyKeyValues creates the store with its first key, and forgets it with
// its last.
func (c *Controller) modifyKeyValues(q *request) Replies {
	var in propsModify
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name := q.PathValue("store")
	props := c.keyValues[name]
	if props == nil {
		props = map[string]string{}
	}
	in.modify(props)
	c.keyValues[name] = props
	if len(props) == 0 {
		delete(c.keyValues, name)
	}
	return Replies{success(codeModified, objKeyValue|opModify, "Successfully updated key value store '%s'", name)}
}

func (c *Controller) deleteKeyValues(q *request) Replies {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := q.PathValue("store")
	if _, ok := c.keyValues[name]; !ok {
		return Replies{warning(warnNotFound, objKeyValue|opDelete, "Key value store '%s' not found.", name)}
	}
	delete(c.keyValues, name)
	return Replies{success(codeDeleted, objKeyValue|opDelete, "Successfully deleted key value store '%s'", name)}
}

func (c *Controller) listRemotes(*request) (int, any) {
	return http.StatusOK, map[string][]any{"linstor_remotes": {}, "s3_remotes": {}, "ebs_remotes": {}}
}
